"""Whose turn it is on the device: groups share its time, and short steps cut in where another's takes long.

The longest step of all, of a picture of 2,048 pixels a side, can take a CPU minutes. So a turn that may be long is
interrupted between two operators (see `beats`), and there those go first who are more urgent, or have had less of
the time, if their own steps are short.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

from worker.engine.admission import Admission
from worker.engine.beats import Event, beats
from worker.engine.pace import Paces
from worker.engine.request_state import Flight

LONGEST_SECONDS = 10.0
"""No more rows are taken together than are done in so long: a batch that takes longer gains nothing by its size."""
SHORT_SECONDS = 1.0
"""What takes no longer may take its turn in the midst of another's."""
_LOOK_SECONDS = 0.02
"""How often a long turn looks whether somebody goes first."""


class NotWanted(BaseException):
    """Ends a turn of which nobody waits for the outcome. Not an error of any job's."""


@dataclass
class Turn:
    """A group that has the device, for `seconds` so far, its most urgent job being of `priority`."""

    group: Hashable
    priority: int
    seconds: float = 0.0
    since: float = field(default_factory=time.monotonic)
    """Up to when its time is counted."""
    looked: float = field(default_factory=time.monotonic)
    """When it last looked whether somebody goes first."""
    was_shared: bool = False
    """Whether others have cut in."""


class Turns:
    """The turns of one engine, one within the other where short ones cut in."""

    def __init__(self) -> None:
        self._admission = Admission()
        self._paces = Paces()
        self._stack: list[Turn] = []
        self._put_off: set[Hashable] = set()

    @property
    def is_within_another(self) -> bool:
        """Whether the turn that is under way is taken in the midst of another's."""
        return len(self._stack) > 1

    @property
    def was_shared(self) -> bool:
        """Whether others have cut in on the turn that is under way."""
        return self._stack[-1].was_shared

    def put_off(self, group: Hashable) -> None:
        """There is no room for the group beside what the turns around it hold: it waits for their end."""
        self._put_off.add(group)

    def meet(self, flights: Iterable[Flight]) -> None:
        """These are all the jobs there are."""
        self._admission.meet({*(flight.group for flight in flights), *(turn.group for turn in self._stack)})

    def choose(self, flights: Iterable[Flight], max_rows: int) -> list[str]:
        """Which jobs have a turn now, by id: of one group, filling at most `max_rows` (see `Admission`)."""
        return self._admission.choose([flight.candidate for flight in flights], max_rows)

    def rows_in(self, seconds: float, flight: Flight) -> int | None:
        """How many rows of a job's group are done in so long, but two at least; None before its first step."""
        pace = self._paces.of(flight.group)
        return None if pace is None else max(2, int(seconds / max(pace, 1e-9)))

    def is_short(self, flight: Flight) -> bool:
        """Whether a step of the job alone is short. Before the first one its picture's size must do."""
        pace = self._paces.of(flight.group)
        return not flight.is_large if pace is None else pace * flight.rows <= SHORT_SECONDS

    def took(self, turn: Turn, rows: int) -> None:
        """A turn has been a step of so many rows."""
        self._charge()
        self._paces.took(turn.group, rows, turn.seconds)

    @contextmanager
    def taken(
        self,
        group: Hashable,
        priority: int,
        *,
        between: Callable[[Turn], None] | None,
        in_parts: bool = False,
        event: Callable[[], Event] | None = None,
    ) -> Iterator[Turn]:
        """The group has the device during the block, and its time is counted, less that of those who cut in.

        `between` is called now and then between two operators, if given (see `beats`); it may end the block by raising
        `NotWanted`.
        """
        if self._stack:
            self._charge()
            self._stack[-1].was_shared = True
        turn = Turn(group, priority)
        look = partial(self._look, turn, between)
        self._stack.append(turn)
        try:
            with nullcontext() if between is None else beats(look, in_parts=in_parts, event=event):
                yield turn
        except NotWanted:
            pass
        finally:
            self._charge()
            self._stack.pop()
            if self._stack:
                self._stack[-1].since = time.monotonic()
            else:
                self._put_off.clear()

    def first(self, flights: Iterable[Flight], turn: Turn) -> Sequence[Flight]:
        """The jobs that go before a turn that is under way."""
        spent = self._admission.spent(turn.group)
        return [
            flight
            for flight in flights
            if self.may_cut_in(flight)
            and (-flight.request.priority, self._admission.spent(flight.group)) < (-turn.priority, spent)
        ]

    def may_cut_in(self, flight: Flight) -> bool:
        """Whether a job can take a turn in the midst of those that are under way."""
        others = {turn.group for turn in self._stack} | self._put_off
        return self.is_short(flight) and flight.group not in others

    def _look(self, turn: Turn, between: Callable[[Turn], None] | None) -> None:
        if between and time.monotonic() - turn.looked >= _LOOK_SECONDS:
            self._charge()
            between(turn)
            turn.looked = time.monotonic()

    def _charge(self) -> None:
        """Count the time since this was last done as the innermost turn's."""
        turn, now = self._stack[-1], time.monotonic()
        self._admission.charge(turn.group, now - turn.since)
        turn.seconds += now - turn.since
        turn.since = now
