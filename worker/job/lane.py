"""A lane of their own for studies: when pictures hold every slot, one that waits is answered all the same.

A slot is free when a picture is done, which on a CPU can take a minute. A study takes a moment, and somebody waits.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from farm.errors import LedgerUnavailable
from farm.ledger.ledger import Ledger
from farm.ledger.records import Suspect
from worker.leases.keeper import LeaseKeeper
from worker.models.service import ModelService

_log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5


class StudyLane:
    """Looks for studies in the background while all `slots` are taken, and has them done by `work`, one at a time."""

    def __init__(
        self, ledger: Ledger, keeper: LeaseKeeper, served: ModelService, *, slots: int, work: Callable[[str], None]
    ) -> None:
        self._ledger = ledger
        self._keeper = keeper
        self._served = served
        self._slots = slots
        self._work = work
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="studies", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Answer what waits now, unless there is a free slot for it. A suspect is left to those who do nothing else."""
        if len(self._keeper.held) < self._slots:
            return
        try:
            for job in self._waiting():
                with contextlib.suppress(Suspect):
                    self._work(job)
        except LedgerUnavailable as error:
            _log.debug("nobody can look for studies: %s", error)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self.look()

    def _waiting(self) -> Iterator[str]:
        urgent = self._ledger.urgent(self._served.taken)
        specs = self._ledger.specs(urgent) if urgent else {}
        return (job for job in urgent if job in specs and specs[job].is_study)
