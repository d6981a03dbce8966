"""How a worker leaves: it takes nothing more, and what it holds is checkpointed and goes back to the queue."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

from farm.errors import LedgerUnavailable
from farm.ledger.ledger import Ledger
from farm.ledger.records import Claim
from worker.engine.engine import Engine
from worker.host.crash_report import CrashReport
from worker.leases.keeper import LeaseKeeper
from worker.queue import consumer
from worker.queue.intake import Intake

_log = logging.getLogger(__name__)


@dataclass
class Leaving:
    """Asked to leave by a signal, a worker is gone within `grace` seconds; by a second one, at once.

    `event` is set as it begins to leave; `announce` tells the farm.
    """

    worker: str
    ledger: Ledger
    engine: Engine
    intake: Intake
    keeper: LeaseKeeper
    crash_report: CrashReport
    hand_back: Callable[[Claim], None]
    announce: Callable[[], None]
    grace: float
    event: threading.Event = field(default_factory=threading.Event)

    def on_signals(self) -> None:
        """From now on SIGTERM and Ctrl-C ask this worker to leave."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.event.is_set():
            _log.warning("leaving at once")
            self._leave(128 + number)
        _log.info("leaving: %d jobs held, and %g s to hand them back", len(self.keeper.held), self.grace)
        self.intake.close("it is leaving")
        self.event.set()
        self.engine.suspend_all()
        timer = threading.Timer(self.grace, self._out_of_time)
        timer.daemon = True
        timer.start()
        threading.Thread(target=self.announce, name="announce", daemon=True).start()
        consumer.stop()

    def _out_of_time(self) -> None:
        _log.warning("out of time: %d jobs go back as they are", len(self.keeper.held))
        self._leave(0)

    def _leave(self, code: int) -> NoReturn:
        """End the process now. What it holds goes back to the queue, to go on from its last checkpoint."""
        for claim in self.keeper.held:
            self.hand_back(claim)
        with contextlib.suppress(LedgerUnavailable):  # then the announcement lapses by itself
            self.ledger.depart(self.worker)
        self.crash_report.close()
        os._exit(code)


def before_ready(*_: object) -> NoReturn:
    """A handler for SIGTERM while models are loaded: there is nothing to hand back, and the process ends in order."""
    _log.info("leaving before it is ready")
    raise SystemExit(0)
