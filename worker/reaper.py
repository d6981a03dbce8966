"""Finding what was lost: jobs whose worker fell silent, and jobs whose message never reached a worker.

Every worker runs a reaper; a lapsing lock in Redis lets one at a time work. Nobody is declared dead for an
outage of Redis itself: after one, workers get a whole lease's time to renew before anything is reaped.
"""

from __future__ import annotations

import logging
import threading
import time

from farm.errors import LedgerUnavailable
from farm.jobs import Waiting
from farm.ledger import LEASE_SECONDS, Ledger
from farm.queue import Queue, depth

_log = logging.getLogger(__name__)

PERIOD_SECONDS = 2.0
UNCLAIMED_SECONDS = 5.0
"""A queued job of an empty queue whose message is older than this has no message any more."""
FORGOTTEN_SECONDS = 600.0
"""A queued job whose message is older than this gets another, however long the queue: spare ones do no harm."""


class Reaper:
    """Runs in the background until stopped."""

    def __init__(self, ledger: Ledger, queue: Queue, worker: str) -> None:
        self._ledger = ledger
        self._queue = queue
        self._worker = worker
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        last_success = trusted_from = time.monotonic()
        while not self._stop.wait(PERIOD_SECONDS):
            try:
                now = time.monotonic()
                may_work = self._ledger.try_lock("reaper", self._worker, seconds=3 * PERIOD_SECONDS)
                if time.monotonic() - last_success > LEASE_SECONDS / 2:
                    trusted_from = time.monotonic() + LEASE_SECONDS
                if may_work and now >= trusted_from:
                    self.reap()
                if may_work:
                    self.reconcile()
                last_success = time.monotonic()
            except LedgerUnavailable as error:
                _log.debug("nothing reaped: %s", error)
            except Exception:  # one strange record must not end the search for all others
                _log.error("reaping failed", exc_info=True)

    def reap(self) -> None:
        """Queue jobs again whose lease lapsed. Raises `LedgerUnavailable`."""
        reaped = self._ledger.reap()
        for job in reaped:
            _log.warning("the lease of job %s lapsed: it is %s", job.job, job.state)
        self._queue.publish(Waiting(job.job, job.model, job.priority) for job in reaped if job.state == "queued")

    def reconcile(self) -> None:
        """Publish again what the ledger has queued and the queues have lost. Raises `LedgerUnavailable`."""
        for model in self._ledger.models():
            if not self._ledger.waiting(model):
                continue
            age = FORGOTTEN_SECONDS if depth(self._ledger.redis, model) else UNCLAIMED_SECONDS
            stale = self._ledger.republish(model, older_than=age)
            if stale:
                _log.info("publishing %d queued jobs of '%s' again", len(stale), model)
                self._queue.publish(stale)
