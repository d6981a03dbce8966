"""Keeping the leases of the jobs held, for as long as the engine gets on with them.

One thread a worker renews all leases with one ledger call, records progress, hears of cancellations and of orders to
the worker, and announces it. It stops renewing when the engine hangs: then the leases lapse and others take the jobs.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from farm import keys
from farm.errors import LedgerUnavailable
from farm.ledger.ledger import Ledger
from farm.ledger.records import Attempt, Claim, Progress
from farm.ledger.timing import TIMING, Timing

_log = logging.getLogger(__name__)


@dataclass
class Holding:
    """A job held: the step it has reached, and whether it was lost (cancelled, or taken by another)."""

    claim: Claim
    step: int = 0
    losses: Mapping[str, float] = field(default_factory=dict)
    """Their latest values, by name."""
    lost: threading.Event = field(default_factory=threading.Event)

    @property
    def progress(self) -> Progress:
        reached = self.claim.job, self.claim.attempt, self.step
        return (*reached, json.dumps(self.losses)) if self.losses else reached


class LeaseKeeper:
    """Renews leases in the background.

    `announce` says that the worker lives; at once, when operators have told the workers of its name something.
    `on_lost` hears of each job lost, `on_preview_wanted` of one that somebody wants to see, at each of its reports, and
    `on_hang` that the engine hangs.
    """

    def __init__(
        self,
        ledger: Ledger,
        worker: str,
        *,
        announce: Callable[[], object],
        on_lost: Callable[[Claim], None],
        on_preview_wanted: Callable[[Claim], None],
        is_hung: Callable[[], bool],
        on_hang: Callable[[], None],
        timing: Timing = TIMING,
    ) -> None:
        self._ledger = ledger
        self._worker = worker
        self._announce = announce
        self._on_lost = on_lost
        self._on_preview_wanted = on_preview_wanted
        self._is_hung = is_hung
        self._on_hang = on_hang
        self._timing = timing
        self._lock = threading.RLock()  # a signal's handler may ask what is held while this thread was asking
        self._held: dict[Attempt, Holding] = {}
        self._told: dict[Attempt, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread and say goodbye to the ledger."""
        self._stop.set()
        self._thread.join()
        try:
            self._ledger.depart(self._worker)
        except LedgerUnavailable as error:
            _log.warning("the ledger could not be told that this worker is gone: %s", error)

    @contextmanager
    def holding(self, claim: Claim) -> Iterator[Holding]:
        """Keep the claim's lease during the block."""
        attempt = (claim.job, claim.attempt)
        with self._lock:
            self._held[attempt] = Holding(claim)
        try:
            yield self._held[attempt]
        finally:
            with self._lock:
                del self._held[attempt]
                self._told.pop(attempt, None)

    @property
    def held(self) -> list[Claim]:
        """The claims held."""
        with self._lock:
            return [holding.claim for holding in self._held.values()]

    def _run(self) -> None:
        try:
            self._keep()
        except Exception:  # a worker without leases would render what others render too
            _log.critical("leases cannot be kept any more", exc_info=True)
            self._on_hang()

    def _keep(self) -> None:
        cursor: str | None = None
        renewed = announced = float("-inf")
        unreachable = False
        while not self._stop.is_set():
            if self._is_hung():
                self._on_hang()
                return
            try:
                cursor = cursor or self._ledger.control_cursor()
                orders = self._ledger.orders(cursor, wait=self._timing.progress)
                cursor = orders.cursor
                self._lose(orders.cancelled)
                now = time.monotonic()
                if self._has_news() or now - renewed >= self._timing.renewal:
                    self._renew()
                    renewed = now
                if now - announced >= self._timing.announcement or keys.worker_name(self._worker) in orders.told:
                    self._announce()
                    announced = now
                if unreachable:
                    _log.info("the ledger is back")
                unreachable = False
            except LedgerUnavailable as error:
                if not unreachable:
                    _log.warning("leases cannot be renewed: %s", error)
                unreachable = True
                self._stop.wait(self._timing.again)

    def _has_news(self) -> bool:
        with self._lock:
            return any(self._told.get(attempt, 0) != holding.step for attempt, holding in self._held.items())

    def _renew(self) -> None:
        with self._lock:
            reports = [holding.progress for holding in self._held.values()]
        if reports:
            renewed = self._ledger.renew(self._worker, reports)
            with self._lock:
                self._told.update({(job, n): step for job, n, step, *_ in reports if (job, n) in self._held})
            self._lose(renewed.lost)
            for holding in self._holdings(renewed.previewed):
                self._on_preview_wanted(holding.claim)

    def _lose(self, attempts: Collection[Attempt]) -> None:
        for holding in self._holdings(attempts):
            if not holding.lost.is_set():
                holding.lost.set()
                self._on_lost(holding.claim)

    def _holdings(self, attempts: Collection[Attempt]) -> list[Holding]:
        with self._lock:
            return [self._held[attempt] for attempt in attempts if attempt in self._held]
