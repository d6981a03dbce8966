"""Servers that are away for some calls, or whose answer is lost on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Outage:
    """When a fake server does not answer. `error` makes what is raised then."""

    def __init__(self, error: Callable[[str], Exception]) -> None:
        self._error = error
        self._calls_left = 0.0
        self._lost: Counter[str] = Counter()
        self.refused = 0

    def begin(self, calls: float = float("inf")) -> None:
        """From now on the server is away, for so many calls at the most."""
        self._calls_left = calls

    def end(self) -> None:
        self._calls_left = 0

    def lose_answer_to(self, call: str) -> None:
        """The next such call is done, and nobody hears of it."""
        self._lost[call] += 1

    @contextmanager
    def passed(self, call: str) -> Iterator[None]:
        """The call is done in the block, unless the server is away."""
        if self._calls_left:
            self._calls_left -= 1
            self.refused += 1
            raise self._error(f"away as it was to {call}")
        yield
        if self._lost[call]:
            self._lost[call] -= 1
            raise self._error(f"the answer to {call} was lost")
