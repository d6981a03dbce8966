"""Forgetting jobs that are over: their records and indexes, and, if that is wanted, what they left in the bucket.

A batch's manifest names a job for as long as the batch has another. So that `farm recover` brings back nothing that was
forgotten, `forgotten/<batch>.json` lists those: apart from one another what somebody wanted forgotten, and what has
merely been over for long, whose pictures are still to be found. An event says which pictures are not.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from farm import keys
from farm.bucket.storage import Storage
from farm.errors import ObjectMissing, ObjectTooLarge
from farm.jobs.status import TERMINAL, State
from farm.ledger.ledger import Ledger

_MAX_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Forgotten:
    """The jobs of a batch that were forgotten: because somebody said so, or because of their age alone."""

    on_purpose: frozenset[str] = frozenset()
    expired: frozenset[str] = frozenset()

    @property
    def jobs(self) -> frozenset[str]:
        return self.on_purpose | self.expired


def forget(
    ledger: Ledger, storage: Storage, jobs: Sequence[str], *, objects: bool, on_purpose: bool = True
) -> list[str]:
    """Forget those of the jobs that are not queued or running, with their `objects` or without. Returns them.

    Raises `LedgerUnavailable`, `StorageError`; it may be done again.
    """
    forgotten = ledger.forget(jobs)
    batches: dict[str, set[str]] = defaultdict(set)
    for job in forgotten:
        batches[keys.batch_of(job)].add(job)
    for batch, found in batches.items():
        of_it = frozenset(found)
        _note(storage, batch, Forgotten(*((of_it, frozenset()) if on_purpose else (frozenset(), of_it))))
        if objects:
            for job in of_it:
                _delete(storage, keys.job_prefix(job))
            if not ledger.batch(batch):
                storage.delete(keys.batch_manifest(batch))
                storage.delete(keys.forgotten(batch))
    if on_purpose or objects:
        ledger.tell_gone(forgotten)
    return forgotten


def expire(
    ledger: Ledger, storage: Storage, *, older_than: float, states: Sequence[State] = (), objects: bool
) -> Iterator[list[str]]:
    """Forget, a few hundred at a time, the jobs that have been over for `older_than` seconds."""
    wanted = states or sorted(TERMINAL)
    while jobs := ledger.expired(wanted, older_than=older_than):
        if not (forgotten := forget(ledger, storage, jobs, objects=objects, on_purpose=False)):
            return
        yield forgotten


def forgotten_of(storage: Storage, batch: str) -> Forgotten:
    """The jobs of a batch that were forgotten. What cannot be read names none: better a job too many than one lost."""
    try:
        told = json.loads(storage.get(keys.forgotten(batch), limit=_MAX_BYTES))
    except (ObjectMissing, ObjectTooLarge, ValueError, RecursionError):
        return Forgotten()
    if isinstance(told, list):  # as earlier versions wrote it
        return Forgotten(_jobs(told))
    return (
        Forgotten(_jobs(told.get("forgotten")), _jobs(told.get("expired"))) if isinstance(told, dict) else Forgotten()
    )


def _jobs(told: Any) -> frozenset[str]:
    return frozenset(job for job in told if isinstance(job, str)) if isinstance(told, list) else frozenset()


def _note(storage: Storage, batch: str, more: Forgotten) -> None:
    known = forgotten_of(storage, batch)
    on_purpose = known.on_purpose | more.on_purpose
    told = {"forgotten": sorted(on_purpose), "expired": sorted((known.expired | more.expired) - on_purpose)}
    storage.put(keys.forgotten(batch), json.dumps(told).encode(), "application/json")


def _delete(storage: Storage, prefix: str) -> None:
    for stored in list(storage.list(prefix)):
        storage.delete(stored.key)
