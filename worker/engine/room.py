"""Room in memory: how much is taken together, and what becomes of work that found none.

Whatever runs out of memory goes down the same ladder: several jobs together, each of them alone, then in parts (the
rows of a step one after the other, a picture in tiles), and only then does it fail. Work that lacked what others
held, around its turn or in its midst, fails through no fault of its own: it is put off until they are done.
"""

from __future__ import annotations

from collections.abc import Hashable

from worker.diffusion.additions import Additions
from worker.engine.memory import Budget, RowCaps, release
from worker.engine.request_state import RequestState
from worker.engine.turns import Turns
from worker.models.memory_profile import is_out_of_memory


class Room:
    """What of an engine's work fits into memory together.

    `padded_rows` is the number of rows that every forward of a deterministic engine has, else None.
    """

    def __init__(self, budget: Budget, turns: Turns, *, max_rows: int, padded_rows: int | None) -> None:
        self._budget = budget
        self._turns = turns
        self._max_rows = max_rows
        self._padded_rows = padded_rows
        self._caps = RowCaps()
        self._additions: dict[Hashable, list[Additions | None]] = {}

    def meet(self, states: list[RequestState]) -> None:
        """These are all the jobs that have steps to do."""
        self._caps.keep_only({state.batch_key for state in states})
        self._additions.clear()
        for state in states:
            if state.additions is not None:
                self._additions.setdefault(state.batch_key, []).append(state.additions)

    def rows(self, state: RequestState) -> int:
        """How many rows of a job's batch key to take together."""
        most = self._caps.of(state.batch_key) or self._max_rows
        if self._padded_rows is not None:
            return most
        besides = state.bytes_of_further_chunks + self._bytes_of_factors(state)
        return self._budget.rows(state.request.model, state.x.shape, most, besides=besides)

    def _bytes_of_factors(self, state: RequestState) -> int:
        """What a row takes beside the jobs of its batch key, to whose ranks and layers its adapters are padded: its
        factors as they are gathered, and as they are laid out for that."""
        beside = self._additions.get(state.batch_key, [])
        return 2 * state.request.model.adapting.bytes_of_row([*beside, state.additions])

    def rows_within(self, seconds: float, state: RequestState) -> int:
        """How many rows to take together in a step of at most this long, and no more than gain by it; a deterministic
        engine does not ask the clock.

        Before a batch key's first step nobody knows, and one job is taken.
        """
        most = self.rows(state)
        if self._padded_rows is not None:
            return most
        return min(most, self._turns.rows_in(seconds, state) or state.rows, self._turns.rows_worth(state) or most)

    def pictures(self, state: RequestState, most: int) -> int:
        """How many pictures of a job's size to decode together; 0 if not even one fits whole."""
        return self._budget.pictures(state.request.model, state.x.shape, most)

    def gradients(self, state: RequestState, most: int) -> int:
        """How many pictures of a job's size to differentiate losses of together."""
        return self._budget.gradients(state.request.model, state.x.shape, most)

    def fitted(self, state: RequestState) -> None:
        """A step of jobs like this one has fitted."""
        self._caps.fitted(state.batch_key, most=self._max_rows)

    def ran_out(self, state: RequestState, rows: int, error: Exception) -> None:
        """A step of this many rows did not fit."""
        release(error)
        self._caps.ran_out(state.batch_key, rows)

    def is_taken(self, error: Exception) -> bool:
        """Whether work failed for lack of memory that others hold or held, around its turn or in its midst.

        If so, the failure says nothing of the job, and what the failed work still holds is given up.
        """
        if not (is_out_of_memory(error) and (self._turns.is_within_another or self._turns.was_shared)):
            return False
        release(error)
        return True

    def wait_for(self, state: RequestState) -> None:
        """A job comes again when the turns around this one are over, and then nobody cuts in."""
        state.needs_all_room = True
        self._turns.put_off(state.batch_key)
