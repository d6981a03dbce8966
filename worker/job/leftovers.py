"""What an attempt leaves besides its result: checkpoint, preview, and a picture on the spool."""

from __future__ import annotations

from dataclasses import dataclass

from farm.ledger.records import Claim
from worker.results.checkpoint import Checkpoints
from worker.results.previews import Previews
from worker.results.spool import Spool


@dataclass(frozen=True)
class Leftovers:
    """Where a worker's jobs leave something for a next attempt."""

    checkpoints: Checkpoints
    previews: Previews
    spool: Spool

    def remove(self, claim: Claim) -> None:
        """The job is over: nothing that was kept for a next attempt is of use any more."""
        self.checkpoints.forget(claim)
        self.previews.forget(claim.job, attempt=claim.attempt)
        self.spool.remove(claim.job)

    def let_go(self, claim: Claim) -> None:
        """The job goes on elsewhere, perhaps from this attempt's checkpoint."""
        self.checkpoints.let_go(claim)
        self.previews.let_go(claim.job)
