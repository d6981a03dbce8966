"""What workers logged of a job: from the bucket, and of workers that could log no more from the ledger."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from farm.bucket.job_log import AttemptLog, LogLine, read_log
from farm.bucket.storage import Storage
from farm.errors import ObjectDamaged, ObjectMissing, ObjectTooLarge
from farm.ledger.ledger import Ledger
from farm.ledger.records import Lapse

_MOST_ATTEMPTS = 5


def logs(ledger: Ledger, storage: Storage, job: str) -> Sequence[AttemptLog]:
    """What was logged of the last attempts at a job, the first of them first; of those that left anything.

    An attempt that is under way has left nothing yet. Raises `JobNotFound`, `LedgerUnavailable`, `StorageError`.
    """
    last = ledger.get(job).attempt
    found: dict[int, AttemptLog] = {}
    for attempt in range(max(1, last - _MOST_ATTEMPTS + 1), last + 1):
        with contextlib.suppress(ObjectMissing, ObjectTooLarge, ObjectDamaged):
            found[attempt] = read_log(storage, job, attempt)
    for lapse in ledger.lapsed(job):
        found.setdefault(lapse.attempt, _of_the_dead(job, lapse))
    return [found[attempt] for attempt in sorted(found)][-_MOST_ATTEMPTS:]


def _of_the_dead(job: str, lapse: Lapse) -> AttemptLog:
    """What is known of an attempt whose worker fell silent."""
    lines = [LogLine(at=lapse.at, level="warning", text="its lease lapsed: the worker fell silent")]
    if lapse.how:  # found later, by another worker of that machine; nobody knows when it happened
        lines.append(LogLine(at=None, level="warning", text=f"{lapse.worker} {lapse.how}"))
    return AttemptLog(job=job, attempt=lapse.attempt, worker=lapse.worker, lines=tuple(lines))
