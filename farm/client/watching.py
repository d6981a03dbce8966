"""Following jobs by the ledger's events, until all are over."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from farm.client.waits import TellsOnce
from farm.errors import LedgerUnavailable
from farm.jobs.status import JobStatus
from farm.ledger.reading import Reading

_RESYNCHRONISE_AFTER_SILENT_READS = 10
_OUTAGE_SECONDS = 30.0
_RETRY_SECONDS = 0.5


def watch(ledger: Reading, jobs: Sequence[str], held_up: TellsOnce | None = None) -> Iterator[JobStatus]:
    """See `FarmClient.watch`. `held_up` looks now and then whether the jobs wait in vain."""
    cursor = ledger.now()
    latest = {status.id: status for status in ledger.get_many(jobs)}
    yield from latest.values()
    answered = time.monotonic()
    silent = 0
    while not all(status.is_over for status in latest.values()):
        try:
            if held_up:
                held_up.look(latest.values())
            events = ledger.events(cursor, wait=1.0)
            changed = [job for job in dict.fromkeys(event.job for event in events) if job in latest]
            silent = 0 if changed else silent + 1
            if silent >= _RESYNCHRONISE_AFTER_SILENT_READS:  # what the bounded stream dropped is read again
                changed, silent = [job for job, status in latest.items() if not status.is_over], 0
            statuses = ledger.get_many(changed)
            for job in set(changed) - {status.id for status in statuses}:
                del latest[job]
        except LedgerUnavailable:
            if time.monotonic() - answered > _OUTAGE_SECONDS:
                raise
            time.sleep(_RETRY_SECONDS)
            silent = _RESYNCHRONISE_AFTER_SILENT_READS
            continue
        answered = time.monotonic()
        cursor = events[-1].cursor if events else cursor
        for status in statuses:
            if status != latest[status.id]:
                latest[status.id] = status
                yield status
