"""Jobs and workers to put into a ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from farm.jobs.spec import Conditioning, JobSpec, WeightedPrompt
from farm.jobs.status import WorkerInfo
from farm.ledger.records import NewJob

BATCH = "0" * 16


def job(index: int = 0, *, model: str = "emoji", priority: int = 5, steps: int = 30) -> NewJob:
    """A job of the batch `BATCH`."""
    conditioning = Conditioning(prompts=(WeightedPrompt(text="an otter"),))
    spec = JobSpec(mode="txt2img", model=model, conditioning=conditioning, steps=steps, seed=index)
    return NewJob(f"{BATCH}-{index:04d}", spec, priority, {"who": "test"})


def a_worker(id: str = "w1", **others: Any) -> WorkerInfo:
    """A worker's description of itself."""
    fields: dict[str, Any] = {
        "host": "here",
        "pid": 1,
        "device": "cpu",
        "state": "ready",
        "models": ("emoji",),
        "slots": 4,
        "jobs": 0,
        "version": "0",
        "started": datetime.now(UTC),
    }
    return WorkerInfo(id=id, **(fields | others))
