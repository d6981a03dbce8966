"""Rebuilding the ledger from the bucket, after Redis was lost.

The bucket holds every spec that was submitted and every result that was made. Jobs with a complete result are
recorded as done, all others are queued. Jobs that the ledger knows are left alone, so recovering twice is harmless;
but a record of which only a part is left, or that cannot be read, is rebuilt, and indexes are put right.
That a job had failed or was cancelled is not in the bucket: it is queued again.

Attempts that were under way when Redis was lost may still be writing, and have left nothing that tells their
number. So the attempts of a job that is queued again are counted from the next hundred on. It goes on from its last
checkpoint.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, replace

from farm import keys
from farm.bucket.fetch import read_result
from farm.bucket.manifest import batches_in, read_manifest
from farm.bucket.results import JobResult
from farm.client import FarmClient, tie
from farm.client.forget import forgotten_of
from farm.errors import InvalidInput, ObjectDamaged, ObjectMissing, ObjectTooLarge
from farm.jobs.status import Waiting
from farm.ledger.records import NewJob, Restored

_OBJECT = re.compile(r"jobs/([^/]+)/(?:([0-9]{1,8})/)?(.+)")
_GENERATION = 100


@dataclass(frozen=True)
class Recovery:
    """What was found: batches, jobs of them that are done, jobs that are queued, and manifests that are damaged.

    `anew` records were incomplete or damaged, `indexed` whole ones were missing from an index. `unexplained` jobs are
    still in the ledger's quarantine: no manifest in the bucket names them.
    """

    batches: int
    done: int
    queued: int
    damaged: tuple[str, ...]
    anew: int = 0
    indexed: int = 0
    unexplained: tuple[str, ...] = ()


def recover(farm: FarmClient, *, adopt: bool = False) -> Recovery:
    """Record every job of every batch in the bucket that the ledger lacks, and publish those that are queued.

    A ledger that belongs to another bucket is refused, unless it is to `adopt` this one: `WrongBucket`.
    Raises `LedgerUnavailable`, `StorageError`.
    """
    if adopt:
        tie.adopt(farm.ledger, farm.storage)
    else:
        tie.tie(farm.ledger, farm.storage, create=False)
    batches = done = 0
    restored = Restored()
    damaged: list[str] = []
    for batch in batches_in(farm.storage):
        try:
            jobs = _jobs(farm, batch)
        except (InvalidInput, ObjectTooLarge):
            damaged.append(keys.batch_manifest(batch))
            continue
        unreadable = farm.ledger.damaged([job.id for job in jobs])
        found = farm.ledger.restore(batch, jobs, damaged=unreadable)
        farm.queue.publish(Waiting(job.id, job.spec.model, job.priority) for job in jobs if job.id in found.queued)
        batches += 1
        done += sum(job.result is not None for job in jobs)
        restored += found
    left = tuple(sorted(farm.ledger.quarantined()))
    return Recovery(batches, done, len(restored.queued), tuple(damaged), restored.anew, restored.indexed, left)


@dataclass
class _Left:
    """What the bucket has of a job: its attempts, those complete, those to go on from, and whether one was chosen."""

    attempts: set[int] = field(default_factory=set)
    complete: set[int] = field(default_factory=set)
    checkpoints: set[int] = field(default_factory=set)
    promoted: bool = False


def _jobs(farm: FarmClient, batch: str) -> list[NewJob]:
    manifest = read_manifest(farm.storage, batch)
    left = _left(farm, batch)
    forgotten = forgotten_of(farm.storage, batch).jobs
    return [
        _job(farm, NewJob(job.id, job.spec, job.priority, job.labels), left[job.id])
        for job in manifest.jobs
        if job.id not in forgotten
    ]


def _left(farm: FarmClient, batch: str) -> dict[str, _Left]:
    left: dict[str, _Left] = defaultdict(_Left)
    for stored in farm.storage.list(f"jobs/{batch}-"):
        match = _OBJECT.fullmatch(stored.key)
        if match is None:
            continue
        job, attempt, name = match.groups()
        if attempt is None:
            left[job].promoted |= name == "result.json"
            continue
        left[job].attempts.add(int(attempt))
        if name == "result.json":
            left[job].complete.add(int(attempt))
        if name == keys.CHECKPOINT:
            left[job].checkpoints.add(int(attempt))
    return left


def _job(farm: FarmClient, job: NewJob, left: _Left) -> NewJob:
    """The job as it is to be recorded: done if an attempt is complete, else to be queued."""
    won = _winner(farm, job.id, left)
    if won is None:
        attempt = _GENERATION * (1 + max(left.attempts, default=0) // _GENERATION)
        return replace(job, attempt=attempt, checkpoint=max(left.checkpoints, default=None))
    return replace(job, result=keys.attempt_result(job.id, won), attempt=won)


def _winner(farm: FarmClient, job: str, left: _Left) -> int | None:
    """The complete attempt that counts: the one that people have seen, else any, for all render the same spec.

    If none was seen yet, this makes the chosen one the job's result.
    """
    if left.promoted and len(left.complete) == 1:
        return min(left.complete)
    promoted = _result(farm, job, keys.result(job)) if left.promoted else None
    if promoted and promoted.attempt in left.complete:
        return promoted.attempt
    for attempt in sorted(left.complete, reverse=True):
        result = _result(farm, job, keys.attempt_result(job, attempt))
        if result and result.attempt == attempt:
            farm.storage.put(keys.result(job), result.model_dump_json(indent=2).encode(), "application/json")
            return attempt
    return None


def _result(farm: FarmClient, job: str, key: str) -> JobResult | None:
    """The result under a key, or None if it is not this job's: then the job is rendered again."""
    try:
        result = read_result(farm.storage, key)
    except (ObjectDamaged, ObjectMissing, ObjectTooLarge):
        return None
    return result if result.job == job else None
