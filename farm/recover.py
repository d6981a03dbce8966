"""Rebuilding the ledger from the bucket, after Redis was lost.

The bucket holds every spec that was submitted and every result that was made. Jobs with a complete result are
recorded as done, all others are queued. Jobs that the ledger knows are left alone, so recovering twice is harmless.
That a job had failed or was cancelled is not in the bucket: it is queued again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from farm import keys
from farm.client import FarmClient, read_manifest
from farm.errors import InvalidInput, ObjectTooLarge
from farm.jobs import Waiting
from farm.ledger import FoundResult, NewJob

_MANIFEST = re.compile(r"batches/([^/]+)\.json")
_ATTEMPT_RESULT = re.compile(r"jobs/([^/]+)/([0-9]{1,9})/result\.json")


@dataclass(frozen=True)
class Recovery:
    """What was found: batches, jobs of them that are done, jobs that are queued, and manifests that are damaged."""

    batches: int
    done: int
    queued: int
    damaged: tuple[str, ...]


def recover(farm: FarmClient) -> Recovery:
    """Record every job of every batch in the bucket that the ledger lacks, and publish those that are queued.

    Raises `LedgerUnavailable`, `StorageError`.
    """
    batches = done = queued = 0
    damaged: list[str] = []
    for stored in farm.storage.list("batches/"):
        match = _MANIFEST.fullmatch(stored.key)
        if match is None or not keys.is_batch_id(match[1]):
            continue
        try:
            jobs = _jobs(farm, match[1])
        except (InvalidInput, ObjectTooLarge):
            damaged.append(stored.key)
            continue
        waiting = set(farm.ledger.create(match[1], jobs))
        farm.queue.publish(Waiting(job.id, job.spec.model, job.priority) for job in jobs if job.id in waiting)
        batches += 1
        done += sum(job.result is not None for job in jobs)
        queued += len(waiting)
    return Recovery(batches, done, queued, tuple(damaged))


def _jobs(farm: FarmClient, batch: str) -> list[NewJob]:
    manifest = read_manifest(farm.storage, batch)
    found = _results(farm, batch)
    return [
        replace(NewJob(job.id, job.spec, job.priority, job.labels), result=found.get(job.id)) for job in manifest.jobs
    ]


def _results(farm: FarmClient, batch: str) -> dict[str, FoundResult]:
    """The first complete attempt of each job of a batch: any is as good, for they render the same spec."""
    found: dict[str, FoundResult] = {}
    for stored in farm.storage.list(f"jobs/{batch}-"):
        match = _ATTEMPT_RESULT.fullmatch(stored.key)
        if match and keys.is_job_id(match[1]):
            found.setdefault(match[1], FoundResult(stored.key, int(match[2])))
    return found
