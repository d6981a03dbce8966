"""A real Redis and a real S3 server for the whole session, and parts of the farm that talk to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.bucket.storage import Storage
from farm.client import FarmClient
from farm.ledger.ledger import Ledger
from farm.ledger.timing import Timing
from farm.settings import Settings


@pytest.fixture(scope="session")
def bucket_of_a_server(servers: Settings) -> Storage:
    return Storage(servers)


@pytest.fixture
def storage(bucket_of_a_server: Storage) -> Storage:
    return bucket_of_a_server


@pytest.fixture
def client(servers: Settings) -> Iterator[FarmClient]:
    """A client of an empty farm, whose announced workers live for as long as a slow test takes."""
    with FarmClient(servers) as made:
        made.ledger = Ledger(servers, timing=Timing(announcement=600.0))
        made.ledger.redis.flushdb()
        yield made


@pytest.fixture
def away_from_any_farm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment that names no farm."""
    for name in ("FARM_REDIS_URL", "FARM_S3_ENDPOINT", "FARM_S3_BUCKET", "FARM_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FARM_HOME", str(tmp_path / "no farm"))
