"""Errands: something short that a model is asked, done between two ticks ahead of the pictures."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from worker.engine.failures import told
from worker.engine.request import Cancelled
from worker.engine.turns import Turns

_MOST_URGENT = 9
"""The priority of an errand: nobody goes before it."""


@dataclass(frozen=True, eq=False)
class Errand:
    """Work for the job `id`, and who waits for it. What may be long is done `in_parts` (see `beats`)."""

    id: str
    work: Callable[[], Any]
    in_parts: bool
    future: Future[Any]


class Errands:
    """Those that one engine has not done yet."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._waiting: deque[Errand] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, errand: Errand) -> None:
        self._waiting.append(errand)

    def run(self, progress: Callable[[], None]) -> None:
        """Do what was asked for. By `progress` each shows that it begins and, while it may be long, that it lives;
        nobody cuts in."""
        while self._waiting:
            progress()
            errand = self._waiting.popleft()
            with self._turns.taken(errand.id, _MOST_URGENT, between=lambda _: progress(), in_parts=errand.in_parts):
                try:
                    errand.future.set_result(errand.work())
                except Exception as error:
                    errand.future.set_exception(told(error, f"answering job {errand.id}"))

    def drop(self) -> None:
        """None is done any more: their futures raise `Cancelled`."""
        while self._waiting:
            errand = self._waiting.popleft()
            errand.future.set_exception(Cancelled(errand.id))
