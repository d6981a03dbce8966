"""Whose turn it is on the device: batch keys share its time, and short steps cut in where another's takes long.

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
from worker.engine.request_state import RequestState

LONGEST_SECONDS = 10.0
"""No more rows are taken together than are done in this time: a batch that takes longer gains nothing by its size."""
SHORT_SECONDS = 1.0
"""What takes no longer than this may take its turn in the midst of another's."""
_CHECK_SECONDS = 0.02
"""How often a long turn checks whether somebody goes first."""


class NotWanted(BaseException):
    """Ends a turn whose outcome nobody waits for. Not an error of any job's."""


@dataclass
class Turn:
    """A batch key whose jobs have the device, for `seconds` so far, its most urgent job being of `priority`."""

    batch_key: Hashable
    priority: int
    seconds: float = 0.0
    since: float = field(default_factory=time.monotonic)
    """Up to when its time is counted."""
    checked: float = field(default_factory=time.monotonic)
    """When it last checked whether somebody goes first."""
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

    def put_off(self, batch_key: Hashable) -> None:
        """There is no room for these jobs beside what the turns around them hold: they wait for their end."""
        self._put_off.add(batch_key)

    def meet(self, states: Iterable[RequestState]) -> None:
        """These are all the jobs there are."""
        self._admission.meet({*(state.batch_key for state in states), *(turn.batch_key for turn in self._stack)})

    def choose(self, states: Iterable[RequestState], max_rows: int) -> list[str]:
        """Which jobs have a turn now, by id: of one batch key, filling at most `max_rows` (see `Admission`)."""
        return self._admission.choose([state.candidate for state in states], max_rows)

    def rows_in(self, seconds: float, state: RequestState) -> int | None:
        """How many rows like a job's are done in this time, at least two; None before their first step."""
        pace = self._paces.of(state.batch_key)
        return None if pace is None else max(2, int(seconds / max(pace, 1e-9)))

    def rows_worth(self, state: RequestState) -> int | None:
        """How many rows like a job's are enough together (see `Paces`); None while that is not known."""
        return self._paces.worth(state.batch_key)

    def is_short(self, state: RequestState) -> bool:
        """Whether a step of the job alone is short. Before the first one its picture's size must do."""
        pace = self._paces.of(state.batch_key)
        return not state.is_large if pace is None else pace * state.rows <= SHORT_SECONDS

    def took(self, turn: Turn, rows: int) -> None:
        """A turn was a step of this many rows."""
        self._charge()
        self._paces.took(turn.batch_key, rows, turn.seconds)

    @contextmanager
    def taken(
        self,
        batch_key: Hashable,
        priority: int,
        *,
        between: Callable[[Turn], None] | None,
        in_parts: bool = False,
        event: Callable[[], Event] | None = None,
    ) -> Iterator[Turn]:
        """Jobs of the batch key have the device during the block. Its time is counted, less that of those who cut in.

        `between` is called now and then between two operators, if given (see `beats`); it may end the block by raising
        `NotWanted`.
        """
        if self._stack:
            self._charge()
            self._stack[-1].was_shared = True
        turn = Turn(batch_key, priority)
        check = partial(self._check, turn, between)
        self._stack.append(turn)
        try:
            with nullcontext() if between is None else beats(check, in_parts=in_parts, event=event):
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

    def first(self, states: Iterable[RequestState], turn: Turn) -> Sequence[RequestState]:
        """The jobs that go before a turn that is under way."""
        spent = self._admission.spent(turn.batch_key)
        return [
            state
            for state in states
            if self.may_cut_in(state)
            and (-state.request.priority, self._admission.spent(state.batch_key)) < (-turn.priority, spent)
        ]

    def may_cut_in(self, state: RequestState) -> bool:
        """Whether a job can take a turn in the midst of those that are under way."""
        others = {turn.batch_key for turn in self._stack} | self._put_off
        return self.is_short(state) and state.batch_key not in others

    def _check(self, turn: Turn, between: Callable[[Turn], None] | None) -> None:
        if between and time.monotonic() - turn.checked >= _CHECK_SECONDS:
            self._charge()
            between(turn)
            turn.checked = time.monotonic()

    def _charge(self) -> None:
        """Count the time since this was last done as the innermost turn's."""
        turn, now = self._stack[-1], time.monotonic()
        self._admission.charge(turn.batch_key, now - turn.since)
        turn.seconds += now - turn.since
        turn.since = now
