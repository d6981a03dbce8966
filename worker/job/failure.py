"""What becomes of a job that could not be done: it fails with a reason, goes back to the queue, or is another's."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from farm.errors import (
    FarmError,
    InvalidInput,
    JobNotFound,
    LedgerUnavailable,
    ModelError,
    ModelUnavailable,
    RenderError,
    StorageError,
)
from farm.ledger.ledger import Ledger
from farm.ledger.records import Claim
from farm.ledger.timing import TIMING, Timing
from worker.host import disk
from worker.job.claims import Claims
from worker.job.leftovers import Leftovers
from worker.job.retry import HandBack, Lost, Retrier
from worker.leases.keeper import Holding
from worker.queue.intake import Intake

_log = logging.getLogger(__name__)

_DISK_REFUSALS = 3
"""A job that this worker's disk could not hold this many times fails."""


@dataclass
class Failures:
    """One worker's answer to whatever keeps a job from being done."""

    worker: str
    ledger: Ledger
    claims: Claims
    leftovers: Leftovers
    intake: Intake
    retrier: Retrier
    leaving: threading.Event
    timing: Timing = TIMING
    _disk_refusals: Counter[str] = field(default_factory=Counter)

    def settle(self, holding: Holding, error: Exception) -> None:
        """Bring a job to an end that `error` has kept from being done, or let it go."""
        claim = holding.claim
        match error:
            case Lost():
                _log.info("job %s was cancelled or is another worker's by now", claim.job)
                self._after_loss(claim)
            case HandBack():
                self.hand_back(claim)
            case LedgerUnavailable():
                _log.warning("job %s goes back to the queue when its lease lapses: %s", claim.job, error)
            case ModelUnavailable():
                _log.warning("job %s goes back to the queue: %s", claim.job, error)
                self.hand_back(claim)
            case OSError() if disk.is_trouble(error):
                self._without_disk(holding, error)
            case _:
                self._fail(holding, error)

    def hand_back(self, claim: Claim) -> None:
        """Give a job back to the queue, with no blame. Tries once."""
        self.leftovers.let_go(claim)
        self.claims.give_back(claim)

    def _after_loss(self, claim: Claim) -> None:
        """If the job goes on elsewhere, what this attempt has kept may be of use there."""
        try:
            is_over = self.ledger.get(claim.job).is_over
        except (JobNotFound, LedgerUnavailable):
            is_over = False
        if is_over:
            self.leftovers.remove(claim)
        else:
            self.leftovers.let_go(claim)

    def _without_disk(self, holding: Holding, error: OSError) -> None:
        """Hand back a job that this disk cannot hold, and take no others for a while or until there is room."""
        job = holding.claim.job
        reason = f"the disk of {self.worker} cannot hold the trace: {disk.described(error)}"
        self._disk_refusals[job] += 1
        if self._disk_refusals[job] >= _DISK_REFUSALS:
            del self._disk_refusals[job]
            self._fail(holding, RenderError("disk", reason))
            return
        _log.warning("job %s: %s", job, reason)
        with self.intake.paused(reason):
            self.hand_back(holding.claim)
            give_up = time.monotonic() + self.timing.disk
            while time.monotonic() < give_up and not self.leaving.wait(self.timing.again) and not disk.has_room():
                pass

    def _fail(self, holding: Holding, error: Exception) -> None:
        claim = holding.claim
        kind, message = _reason(error)
        if kind == "internal":
            _log.error("job %s failed unexpectedly", claim.job, exc_info=error)
        else:
            _log.warning("job %s failed: %s", claim.job, message)
        fields = {"error": json.dumps({"kind": kind, "message": message})}
        try:
            if self.retrier.until_done(holding, lambda: self.ledger.finish(claim, self.worker, "failed", fields)):
                self.leftovers.remove(claim)
        except (Lost, HandBack, LedgerUnavailable):
            _log.warning("job %s could not be ended, and goes back to the queue when its lease lapses", claim.job)


def _reason(error: Exception) -> tuple[str, str]:
    """A stable word for programs and a sentence for people."""
    match error:
        case RenderError():
            return error.kind, str(error)
        case InvalidInput():
            return "invalid", str(error)
        case ModelError():
            return "model", str(error)
        case StorageError():
            return "storage", str(error)
        case FarmError():
            return "refused", str(error)
        case _:
            return "internal", f"{type(error).__name__}: {error}"
