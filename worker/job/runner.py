"""What a worker does with one job: claim, render or answer, deliver, finish. Runs on one thread of the Celery pool."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from farm.bucket.results import JobResult
from farm.errors import LedgerUnavailable
from farm.jobs.spec import JobSpec
from farm.ledger.records import Claim, Suspect
from worker.host import disk
from worker.job.answer import Answerer
from worker.job.claims import Claims
from worker.job.deliver import Delivery
from worker.job.failure import Failures
from worker.job.leftovers import Leftovers
from worker.job.log import JobLogs
from worker.job.render import Renderer
from worker.job.retry import HandBack, Lost
from worker.leases.keeper import Holding, LeaseKeeper
from worker.queue.intake import Intake
from worker.results.finished import Finished
from worker.results.promote import Promoter

_log = logging.getLogger(__name__)


@dataclass
class JobRunner:
    """Works on one job a thread. What goes wrong with one is that job's alone."""

    intake: Intake
    claims: Claims
    keeper: LeaseKeeper
    renderer: Renderer
    answerer: Answerer
    delivery: Delivery
    promoter: Promoter
    leftovers: Leftovers
    failures: Failures
    logs: JobLogs
    is_current: Callable[[str], bool]
    """Whether a job of a model may begin with what this worker has of it."""
    done: int = 0
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=1_000))

    @property
    def images_per_minute(self) -> float:
        """How many pictures were done in the last minute."""
        since = time.monotonic() - 60
        return float(sum(moment >= since for moment in tuple(self._recent)))

    def run(self, job: str) -> None:
        """Handle a wake-up message for `job`. Whatever becomes of it, this returns and the worker goes on."""
        try:
            with self.intake.entering() as admitted:
                if admitted:
                    self._work_on(self.claims.claim(job), job)
                else:
                    self.claims.offer_again(job)
        except Suspect:
            self._run_alone(job)
        except LedgerUnavailable as error:
            _log.warning("job %s was not claimed, and will be offered again: %s", job, error)

    def answer(self, job: str) -> None:
        """Work on a study though there may be no slot for it, unless it is somebody else's by now.

        Raises `Suspect`, `LedgerUnavailable`.
        """
        with self.intake.entering() as admitted:
            if admitted:
                self._work_on(self.claims.claim(job, only=True), job)

    def _run_alone(self, job: str) -> None:
        """Work on a job that may be what brought two workers down, when nothing else can suffer from it."""
        with self.intake.alone(f"job {job} may have crashed two workers, so it is rendered alone") as is_alone:
            if is_alone:
                _log.warning("job %s may have crashed two workers: rendering it with no others", job)
                self._work_on(self.claims.claim(job, alone=True), job, alone=True)
            else:
                self.claims.offer_again(job)

    def _work_on(self, claim: Claim | None, job: str, *, alone: bool = False) -> None:
        if claim is None:
            _log.debug("job %s is not waiting", job)
            return
        with self.logs.about(claim) as log:
            log.is_plain = self._see_to(claim, alone=alone) and claim.attempt == 1

    def _see_to(self, claim: Claim, *, alone: bool) -> bool:
        """Bring a claimed job to an end, or let it go. Returns whether it is done, or not this worker's any more."""
        with self.keeper.holding(claim) as holding:
            try:
                result = self._render_and_deliver(holding, alone=alone)
            except Exception as error:
                self.failures.settle(holding, error)
                return isinstance(error, Lost)
        self.promoter.promote(result)
        self.leftovers.remove(claim)
        return True

    def _render_and_deliver(self, holding: Holding, *, alone: bool) -> JobResult:
        began, claim = time.monotonic(), holding.claim
        spec = JobSpec.from_json(claim.spec)
        if spec.model not in self.claims.served.taken or not self.is_current(spec.model):
            raise HandBack
        # A job without a trace needs no disk.
        with disk.workspace() if spec.trace.level != "none" else contextlib.nullcontext(Path()) as folder:
            spooled = self.leftovers.spool.find(claim.job, claim.spec)
            finished = spooled or self._made(holding, spec, folder, alone=alone)
            result = self.delivery.upload(holding, finished, is_spooled=spooled is not None)
        self.delivery.finish(holding, finished)
        self.done += 1
        if spec.has_picture:
            self._recent.append(time.monotonic())
        _log.info("job %s done in %.2f s (attempt %d)", claim.job, time.monotonic() - began, claim.attempt)
        return result

    def _made(self, holding: Holding, spec: JobSpec, folder: Path, *, alone: bool) -> Finished:
        if spec.is_study:
            return self.answerer.answer(holding, spec, alone=alone)
        return self.renderer.render(holding, spec, folder, alone=alone)
