"""Waiting for a bucket or a ledger that does not answer, holding a finished picture."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from farm.errors import LedgerUnavailable, StorageError
from farm.ledger.timing import TIMING, Timing
from worker.leases.keeper import Holding
from worker.queue.intake import Intake

_log = logging.getLogger(__name__)

_CHECK_SECONDS = 0.5

Answer = TypeVar("Answer")
_Errors = tuple[type[Exception], ...]


class Lost(Exception):
    """The job is not this worker's any more: cancelled, or taken by another after its lease lapsed."""


class HandBack(Exception):
    """The worker leaves, cannot do the job, or waited too long: the job goes back to the queue."""


class Retrier:
    """One worker's way to wait. While a job waits for the bucket, the worker takes no others."""

    def __init__(self, intake: Intake, leaving: threading.Event, timing: Timing = TIMING) -> None:
        self._intake = intake
        self._leaving = leaving
        self._timing = timing

    def until_done(
        self,
        holding: Holding,
        action: Callable[[], Answer],
        *,
        final: _Errors = (),
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Answer:
        """Do `action`, again and again while the bucket or the ledger does not answer.

        Errors in `final` are answers. `meanwhile` is called once if the bucket has to be waited for. Raises `Lost`
        when the job is lost meanwhile; `HandBack` when the worker leaves, or the bucket stays away for too long;
        `LedgerUnavailable` when the ledger does.
        """
        try:
            return action()
        except final:
            raise
        except LedgerUnavailable as error:
            return self._insist(holding, action, final, error)
        except StorageError as error:
            with self._intake.paused(f"the bucket cannot be used: {error.message}"):
                meanwhile()
                return self._insist(holding, action, final, error)

    def _insist(self, holding: Holding, action: Callable[[], Answer], final: _Errors, error: Exception) -> Answer:
        _log.warning("job %s waits: %s", holding.claim.job, error)
        give_up = time.monotonic() + self._timing.patience
        delay = self._timing.first_pause
        while time.monotonic() < give_up:
            self._wait(holding, delay, error)
            delay = min(2 * delay, self._timing.longest_pause)
            try:
                answer = action()
            except final:
                raise
            except (StorageError, LedgerUnavailable) as again:
                error = again
            else:
                _log.info("job %s goes on after waiting", holding.claim.job)
                return answer
        if isinstance(error, LedgerUnavailable):
            raise error
        raise HandBack from error

    def _wait(self, holding: Holding, seconds: float, error: Exception) -> None:
        until = time.monotonic() + seconds
        while True:
            if holding.lost.is_set():
                raise Lost from error
            if self._leaving.is_set():
                raise HandBack from error
            left = until - time.monotonic()
            if left <= 0:
                return
            holding.lost.wait(min(left, _CHECK_SECONDS))
