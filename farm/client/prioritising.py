"""Giving queued jobs another priority: in the ledger alone, for whose turn it is says the ledger, and no message."""

from __future__ import annotations

from collections.abc import Sequence

from farm.errors import InvalidInput
from farm.ledger.ledger import Ledger
from farm.ledger.records import Prioritised

LEAST, MOST = 0, 9


def prioritise(
    ledger: Ledger, jobs: Sequence[str], priority: int | None = None, *, by: int | None = None
) -> dict[str, Prioritised]:
    """See `FarmClient.prioritise`."""
    if (priority is None) == (by is None):
        raise InvalidInput("say which priority the jobs are to have, or by how much to raise it", field="priority")
    if priority is not None:
        if not LEAST <= priority <= MOST:
            raise InvalidInput(
                f"{priority} is not from {LEAST} to {MOST}", field="priority", hint="9 is the most urgent"
            )
        return ledger.prioritise(dict.fromkeys(jobs, priority))
    shift = by or 0
    return ledger.prioritise(
        {status.id: min(MOST, max(LEAST, status.priority + shift)) for status in ledger.get_many(jobs)}
    )
