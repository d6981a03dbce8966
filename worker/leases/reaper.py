"""Finding what was lost: jobs whose worker fell silent, jobs whose message never reached a worker, and records and
indexes that were damaged.

Every worker runs a reaper; a lapsing lock in Redis lets one at a time work. Nobody is declared dead for an
outage of Redis itself: after one, workers get the time to renew before anything is reaped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from farm.errors import InvalidInput, LedgerUnavailable, StorageError
from farm.jobs.status import Waiting
from farm.ledger.ledger import Ledger
from farm.ledger.records import Cursor
from farm.ledger.timing import TIMING, Timing
from farm.queue import Queue
from worker.queue.messages import jobs_named

_log = logging.getLogger(__name__)

SEARCH_MESSAGES = 10_000
"""A longer queue is not looked through, for Redis would stand still over it."""


class Reaper:
    """Runs in the background until stopped. `also` are more chores for the reaper that has the lock.

    They have a thread of their own, for they may wait for a bucket, and lapsed leases must not.
    """

    def __init__(
        self,
        ledger: Ledger,
        queue: Queue,
        worker: str,
        *,
        also: Sequence[Callable[[], None]] = (),
        timing: Timing = TIMING,
        search_messages: int = SEARCH_MESSAGES,
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._worker = worker
        self._also = also
        self._timing = timing
        self._search_messages = search_messages
        self._chore: threading.Thread | None = None
        self._searched: dict[str, float] = {}
        self._cursor = Cursor()
        self._told: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        unreachable = False
        while not self._stop.wait(self._timing.reaping):
            try:
                if self._ledger.try_lock("reaper", self._worker, seconds=self._timing.reaper_lock):
                    self.reap(window=self._timing.window)
                    self.look_over()
                    self._see_to_the_rest()
                    self.reconcile()
                else:
                    self._ledger.reap(limit=0, window=self._timing.window)
                unreachable = False
            except LedgerUnavailable as error:
                if not unreachable:
                    _log.warning("nothing can be reaped: %s", error)
                unreachable = True
            except Exception:  # one strange record must not end the search for all others
                _log.error("reaping failed", exc_info=True)

    def _see_to_the_rest(self) -> None:
        if self._chore is None or not self._chore.is_alive():
            self._chore = threading.Thread(target=self._do_the_rest, name="chore", daemon=True)
            self._chore.start()

    def _do_the_rest(self) -> None:
        for chore in self._also:
            try:
                chore()
            except (LedgerUnavailable, StorageError) as error:
                _log.warning("a chore is put off: %s", error)
            except Exception:  # as above
                _log.error("a chore failed", exc_info=True)

    def reap(self, *, window: float = 0.0) -> None:
        """Requeue jobs whose lease lapsed. Raises `LedgerUnavailable`."""
        reaped = self._ledger.reap(window=window)
        for job in reaped:
            _log.warning("the lease of job %s lapsed: it is now %s", job.job, job.state)
        self._queue.publish(Waiting(job.job, job.model, job.priority) for job in reaped if job.state == "queued")

    def look_over(self) -> None:
        """Check some more records, and report those that cannot be read. Raises `LedgerUnavailable`."""
        self._cursor = self._ledger.look_over(self._cursor)
        quarantined = self._ledger.quarantined()
        for job in sorted(quarantined.keys() - self._told):
            _log.warning("job %s is in quarantine: %s; 'farm recover' rebuilds it", job, quarantined[job])
        self._told = set(quarantined)

    def reconcile(self) -> None:
        """Publish again what the ledger has queued and the queues have lost. Raises `LedgerUnavailable`."""
        for model in self._ledger.models():
            try:
                self._reconcile(model)
            except (LedgerUnavailable, InvalidInput) as error:  # one strange queue must not hide the others
                _log.warning("the queue of '%s' cannot be checked: %s", model, error)

    def _reconcile(self, model: str) -> None:
        if not self._ledger.waiting(model):
            return
        messages = self._queue.depth(model)
        if messages > self._search_messages:
            stale = self._ledger.republish(model, older_than=self._timing.forgotten)
        elif messages == 0 or self._is_time_to_search(model):
            named = jobs_named(self._queue.entries(model)) if messages else ()
            stale = self._ledger.republish(model, older_than=self._timing.unclaimed, but=named)
        else:
            return
        if stale:
            _log.info("publishing %d queued jobs of '%s' again", len(stale), model)
            self._queue.publish(stale)

    def _is_time_to_search(self, model: str) -> bool:
        now = time.monotonic()
        is_time = now - self._searched.get(model, float("-inf")) >= self._timing.search
        if is_time:
            self._searched[model] = now
        return is_time
