"""Taking jobs from the ledger, and giving them back."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass

from farm.errors import JobNotFound, LedgerRefused, LedgerUnavailable
from farm.jobs.spec import JobSpec
from farm.jobs.status import Waiting
from farm.ledger.ledger import Ledger
from farm.ledger.records import Claim, new_token
from farm.ledger.timing import TIMING, Timing
from farm.queue import Queue
from worker.models.service import ModelService

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claims:
    """The jobs that one worker takes. `leaving` is set when it takes none any more."""

    worker: str
    ledger: Ledger
    queue: Queue
    served: ModelService
    leaving: threading.Event
    timing: Timing = TIMING

    def claim(self, job: str, *, alone: bool = False, only: bool = False) -> Claim | None:
        """Claim the job whose turn it is, of which there is word by `job`; this one itself if `alone`, or it `only`.

        While the ledger does not answer, ask again: it may have granted the claim, and nobody knows. Raises `Suspect`
        for a job that is to be claimed `alone`, `LedgerRefused` if this worker may not claim, and
        `LedgerUnavailable` when time runs out.
        """
        token, give_up = new_token(), time.monotonic() + self.timing.patience
        while True:
            try:
                claim = self.ledger.claim(
                    job, self.worker, token=token, alone=alone, instead=() if alone or only else self.served.taken
                )
                break
            except LedgerRefused:
                raise
            except LedgerUnavailable:
                if time.monotonic() > give_up or self.leaving.wait(self.timing.again):
                    raise
        if claim is not None and claim.owed:
            with contextlib.suppress(LedgerUnavailable):  # who looks for jobs without a message finds it
                self.offer_again(claim.owed)
        return claim

    def offer_again(self, job: str) -> None:
        """Put a job that waits back into its queue: its message came when no more were taken, or brought another."""
        with contextlib.suppress(JobNotFound):
            status = self.ledger.get(job)
            if status.state == "queued":
                self.queue.publish([Waiting(job, status.model, status.priority)])

    def give_back(self, claim: Claim) -> None:
        """Put a claimed job back into its queue, with no blame. Tries once."""
        try:
            if self.ledger.release(claim, self.worker):
                model = JobSpec.from_json(claim.spec).model
                self.queue.publish([Waiting(claim.job, model, claim.priority)])
                _log.info("job %s handed back", claim.job)
        except LedgerUnavailable as error:
            _log.warning("job %s goes back to the queue when its lease lapses: %s", claim.job, error)
