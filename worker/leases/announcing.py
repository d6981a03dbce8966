"""What a worker says of itself in the ledger, and what it hears of its operators by saying so."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from farm.errors import LedgerUnavailable
from farm.jobs.status import WorkerInfo
from farm.ledger.ledger import Ledger
from farm.ledger.records import Wish

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Announcer:
    """Announces one worker: `fixed` is what it says at any time, `changing` gives the fields that change.

    `hear` is told what an operator wishes of it, and says whether that changes anything.
    """

    ledger: Ledger
    fixed: WorkerInfo
    changing: Callable[[], dict[str, Any]]
    hear: Callable[[Wish | None], bool] = lambda _: False
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)  # an answer must not come after a later one

    def describe(self) -> WorkerInfo:
        """The worker as it is now."""
        return self.fixed.model_copy(update=self.changing())

    def say(self) -> None:
        """Say that it lives, and how it is, once more if it is not so any more. Raises `LedgerUnavailable`."""
        with self._one_at_a_time:
            if self.hear(self.ledger.announce(self.describe())):
                self.ledger.announce(self.describe())

    def announce(self) -> None:
        """Say it at once, and not only when it is next due. A ledger that does not answer is only logged."""
        try:
            self.say()
        except LedgerUnavailable as error:
            _log.warning("this worker could not be announced: %s", error)
