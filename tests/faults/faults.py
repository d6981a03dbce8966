"""What was done to the farm, and what it may have cost."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from farm.ledger.timing import TIMING

_NOTICED_WITHIN = TIMING.lease + 45.0
"""A lease lapses, and a reaper comes by, on however busy a machine."""
_SLACK = 2.0


@dataclass
class Fault:
    """One fault, from when to when (seconds since the epoch; None while it lasts).

    `worker` is the name of the one that it was done to; None means none in particular. `may_cost` says whether
    a job in the hands of that worker (or of any) may lose its attempt by it: only then does it explain another.
    `fatal` says that the worker is gone. What it had in hand is then lost to it however late that is noticed, such as
    after Redis was away for a minute in between; how soon it should be has tests of its own.
    """

    kind: str
    worker: str | None = None
    may_cost: bool = False
    fatal: bool = False
    began: float = field(default_factory=time.time)
    ended: float | None = None

    def end(self) -> None:
        self.ended = time.time()

    def explains(self, *, worker: str, claimed: float, requeued: float) -> bool:
        """Whether an attempt of `worker` (an id) from `claimed` to `requeued` may have ended by this."""
        ended = self.ended or float("inf")
        latest = float("inf") if self.fatal else ended + _NOTICED_WITHIN
        mine = self.worker is None or worker.rpartition("-")[0] == self.worker
        return self.may_cost and mine and claimed <= ended + _SLACK and self.began - _SLACK <= requeued <= latest
