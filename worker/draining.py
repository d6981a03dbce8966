"""How a worker is drained: told so by an operator it takes no more jobs, until it is told to go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sized
from contextlib import ExitStack

from farm.ledger.records import Wish
from worker.queue.intake import Intake

_log = logging.getLogger(__name__)

DRAINED = "drained by an operator"


class Draining:
    """Does what operators wish of one worker, which it hears with each of its announcements. `held` are its jobs.

    What it has is finished; or handed back, where that is wished, at the next step boundary. Of a job that only then
    reaches the engine the next announcement takes care.
    """

    def __init__(self, intake: Intake, *, suspend_all: Callable[[], None], held: Callable[[], Sized]) -> None:
        self._suspend_all = suspend_all
        self._intake = intake
        self._held = held
        self._until_resumed = ExitStack()
        self.is_on = False

    def hear(self, wish: Wish | None) -> bool:
        """Do what is wished now. Returns whether the worker begins or ends to take no jobs by it."""
        is_new = self.is_on != (wish is not None)
        if is_new and wish:
            _log.info("%s: taking no more jobs, and %s", DRAINED, _told(wish, len(self._held())))
            self._until_resumed.enter_context(self._intake.paused(DRAINED))
        elif is_new:
            _log.info("an operator lets this worker take jobs again")
            self._until_resumed.close()
        self.is_on = wish is not None
        if wish == "hand-back" and self._held():
            self._suspend_all()
        return is_new


def _told(wish: Wish, number: int) -> str:
    jobs = "1 job" if number == 1 else f"{number} jobs"
    return f"{jobs} held {'to be finished' if wish == 'finish' else 'to be handed back'}"
