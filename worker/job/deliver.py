"""Delivering what an attempt has made: into the bucket, and then into the ledger, whose fence decides."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace

from farm import keys
from farm.bucket.results import JobResult, ResultObject
from farm.jobs.report import LossValues
from farm.ledger.ledger import Ledger
from worker.job.retry import Lost, Retrier
from worker.leases.keeper import Holding
from worker.results.finished import Finished
from worker.results.publish import Publisher
from worker.results.spool import Spool


@dataclass(frozen=True)
class Delivery:
    """One worker's way to deliver. What the bucket does not take for now waits on the spool."""

    worker: str
    ledger: Ledger
    publisher: Publisher
    spool: Spool
    retrier: Retrier

    def upload(self, holding: Holding, finished: Finished, *, is_spooled: bool) -> JobResult:
        """Upload what was made, and last its `result.json`. Raises what `Retrier` does."""
        claim = holding.claim
        objects: dict[str, ResultObject] = {}
        began = time.monotonic()

        def to_disk() -> None:
            nonlocal finished, is_spooled
            if not is_spooled:
                finished, is_spooled = self.spool.keep(claim.job, claim.spec, finished), True

        self.retrier.until_done(holding, lambda: self.publisher.upload(claim, finished, objects), meanwhile=to_disk)

        def seal() -> JobResult:
            timings = {**finished.timings, "publish": time.monotonic() - began}
            return self.publisher.seal(claim, replace(finished, timings=timings), objects)

        return self.retrier.until_done(holding, seal, meanwhile=to_disk)

    def finish(self, holding: Holding, finished: Finished) -> None:
        """Tell the ledger that the job is done. Raises `Lost` if it is another's by now, and what `Retrier` does."""
        claim = holding.claim
        fields = {
            "result": keys.attempt_result(claim.job, claim.attempt),
            "warnings": json.dumps(finished.warnings),
            **_latest(finished.report.losses),
        }
        if not self.retrier.until_done(holding, lambda: self.ledger.finish(claim, self.worker, "done", fields)):
            raise Lost


def _latest(losses: LossValues) -> dict[str, str]:
    """The last value of each loss as a field of the job's record, if there are any."""
    latest = {name: values[-1][1] for name, values in losses.items() if values}
    return {"losses": json.dumps(latest)} if latest else {}
