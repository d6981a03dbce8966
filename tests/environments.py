"""The environment of a shell on a machine of a farm under test."""

from __future__ import annotations

import os
from pathlib import Path

from farm.ledger.timing import Timing
from farm.settings import Settings
from tests.timing import SHORT, of_a_farm


def of_a_shell(home: Path, *, timing: Timing = SHORT) -> dict[str, str]:
    """This process' environment with `home` for its farm, and nothing of any other farm or account."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FARM_", "AWS_"))}
    return {**kept, "FARM_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **of_a_farm(timing)}


def naming(where: Settings) -> dict[str, str]:
    """The variables that name servers, for one who has no home on their machine."""
    return {
        "FARM_REDIS_URL": where.redis_url,
        "FARM_S3_ENDPOINT": where.s3_endpoint or "",
        "FARM_S3_BUCKET": where.s3_bucket,
        "AWS_ACCESS_KEY_ID": where.s3_access_key or "",
        "AWS_SECRET_ACCESS_KEY": where.s3_secret_key or "",
    }
