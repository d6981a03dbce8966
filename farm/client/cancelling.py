"""Cancelling jobs: in the ledger, then in the queue and in the bucket, as far as they hold anything of them.

The bucket is connected to only where there is something of a job to delete.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from farm import keys
from farm.bucket.storage import Storage
from farm.errors import StorageError
from farm.jobs.status import State
from farm.ledger.ledger import Ledger
from farm.queue import lists


def cancel(ledger: Ledger, storage: Callable[[], Storage], jobs: Sequence[str]) -> dict[str, State]:
    """Cancel queued and running jobs. Returns the state each was in. What has no record is left out.

    Raises `LedgerUnavailable`.
    """
    cancelled = ledger.cancel_many(jobs)
    for model in {one.model for one in cancelled.values() if one.before == "queued"}:
        ledger.clear(model, lists(model))
    for job, one in cancelled.items():
        with contextlib.suppress(StorageError):  # what is left in the bucket does no harm
            if one.checkpoint is not None:
                storage().delete(keys.checkpoint(job, one.checkpoint))
            if one.had_preview:
                storage().delete(keys.preview(job))
    return {job: one.before for job, one in cancelled.items()}


def cancel_all(ledger: Ledger, storage: Callable[[], Storage]) -> dict[str, State]:
    """Cancel every queued and running job of the farm. Returns the state each was in. Raises `LedgerUnavailable`."""
    before: dict[str, State] = {}
    states: tuple[State, ...] = ("queued", "running")
    for state in states:
        left = 1
        while left:
            jobs, left = ledger.first(state)
            before |= cancel(ledger, storage, jobs)
            left -= len(jobs)
    return before
