"""What a worker says of itself in the ledger."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from farm.errors import LedgerUnavailable
from farm.jobs.status import WorkerInfo
from farm.ledger.ledger import Ledger

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Announcer:
    """Announces one worker: `fixed` is what it says at any time, `changing` gives the fields that change."""

    ledger: Ledger
    fixed: WorkerInfo
    changing: Callable[[], dict[str, Any]]

    def describe(self) -> WorkerInfo:
        """The worker as it is now."""
        return self.fixed.model_copy(update=self.changing())

    def announce(self) -> None:
        """Say it at once, and not only when it is next due. A ledger that does not answer is only logged."""
        try:
            self.ledger.announce(self.describe())
        except LedgerUnavailable as error:
            _log.warning("this worker could not be announced: %s", error)
