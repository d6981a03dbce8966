"""What a submitter waits for: ten thousand jobs from one file, and a page out of a hundred thousand."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from typing import Any

from farm import keys
from farm.jobs.request import JobRequest
from farm.ledger.ledger import Ledger
from farm.ledger.records import NewJob
from tests.benchmarks.farms import LocalFarm

_CHUNK = 5_000


def submission(farm: LocalFarm, *, jobs: int) -> dict[str, Any]:
    """`farm submit batch` of one file of unlike jobs: reading, checking, storing, recording and publishing."""
    entries = "".join(
        f"  - {{prompt: otter number {n}, seed: {n}, guidance: {1 + n % 11}, steps: {20 + n % 41}}}\n"
        for n in range(jobs)
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "jobs.yaml"
        file.write_text(f"defaults: {{model: emoji}}\njobs:\n{entries}", encoding="utf-8")
        return {"jobs": jobs, **farm.shell("submit", "batch", str(file), "--yes", "--json")}


def listing(farm: LocalFarm, *, jobs: int) -> dict[str, Any]:
    """`farm list`, with the start of the command, while the ledger holds `jobs` jobs; `farm --version` beside it."""
    ledger = Ledger(farm.where)
    fill(ledger, jobs - sum(ledger.counts().values()))
    held = sum(ledger.counts().values())
    ledger.close()
    return {
        "jobs": held,
        "first page": farm.shell("list", "--json"),
        "last page": farm.shell("list", "--page", str(held // 50), "--json"),
        "queued": farm.shell("list", "--state", "queued", "--json"),
        "farm --version": farm.shell("--version"),
    }


def fill(ledger: Ledger, jobs: int) -> list[str]:
    """Record that many queued jobs without messages. Returns their ids."""
    made: list[str] = []
    request = JobRequest(prompt="a cat", steps=30, model="emoji")
    spec = request.specs(None, default_model="emoji")[0]
    while len(made) < jobs:
        batch = keys.new_batch_id()
        count = min(_CHUNK, jobs - len(made))
        new = [
            NewJob(keys.job_in_batch(batch, n), spec.model_copy(update={"seed": secrets.randbits(32)}), 5, {})
            for n in range(count)
        ]
        made += ledger.create(batch, new)
    return made
