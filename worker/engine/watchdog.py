"""Whether the engine hangs, and the end of a worker whose engine does."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from worker.engine.engine import Engine
from worker.host.crash_report import CrashReport

_log = logging.getLogger(__name__)

EXIT_HUNG = 75
"""The engine hung: a supervisor should start the worker again."""


@dataclass(frozen=True)
class Watchdog:
    """Watches an engine: it hangs after `stall_seconds` without progress, or if it has died unasked."""

    engine: Engine
    crash_report: CrashReport
    stall_seconds: float
    is_expected_to_live: Callable[[], bool]

    def is_hung(self) -> bool:
        """Whether the engine hangs, or has died."""
        is_dead = self.is_expected_to_live() and not self.engine.is_alive
        return is_dead or self.engine.busy_for() > self.stall_seconds

    def on_hang(self) -> NoReturn:
        """Nothing can interrupt a hung kernel, so the process ends; the leases lapse and others take the jobs."""
        where = f"the engine made no progress at {self.engine.whereabouts()}"
        _log.critical("%s: this worker ends", where)
        self.crash_report.write(where)
        os._exit(EXIT_HUNG)
