"""Steps: jobs advance together, or one by one if they cannot; each gets its own, and its observer is told.

A step of some samplers is two evaluations of the model, and so two turns of the engine. Observers hear of it once, at
its end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Literal

from farm.errors import RenderError
from worker.engine.decoding import Decoder
from worker.engine.failures import told
from worker.engine.finite import Checks
from worker.engine.jobs import Jobs
from worker.engine.reports import Reports
from worker.engine.request_state import RequestState
from worker.engine.room import Room
from worker.engine.rows import Step, run_step
from worker.models.memory_profile import is_out_of_memory

_log = logging.getLogger(__name__)


class Stepper:
    """Takes jobs of one batch key an evaluation of the model further.

    `max_rows` bounds the rows of a forward, and `padded_rows` is how many every one of a deterministic engine has, else
    None; `progress` is called as each piece of work begins. Observers get a snapshot every `snapshot_seconds` (0:
    never).
    """

    def __init__(
        self,
        jobs: Jobs,
        room: Room,
        decoder: Decoder,
        *,
        max_rows: int,
        padded_rows: int | None,
        snapshot_seconds: float,
        progress: Callable[[], None],
    ) -> None:
        self._jobs = jobs
        self._room = room
        self._decoder = decoder
        self._reports = Reports(decoder)
        self._max_rows = max_rows
        self._padded_rows = padded_rows
        self._snapshot_seconds = snapshot_seconds
        self._progress = progress
        self._unchecked: Checks | None = None

    def advance(self, states: Sequence[RequestState]) -> bool:
        """Take the jobs a step further; those that cannot fail. Returns whether the step was done as it was planned."""
        self._progress()
        if len(states) == 1:
            fitted = self._alone(states[0])
        else:
            try:
                fitted = self._together(states)
            except Exception as error:
                self._one_by_one(states, error)
                return False
        if fitted:
            self._room.fitted(states[0])
        return fitted

    def check(self) -> None:
        """Fail the jobs whose last step gave numbers that are not finite."""
        checks, self._unchecked = self._unchecked, None
        for state, step in checks.failed() if checks else ():
            for failed in self._jobs.still_active([state]):
                self._jobs.fail(failed, RenderError("nan", f"step {step} gave numbers that are not finite"))

    def _one_by_one(self, states: Sequence[RequestState], error: Exception) -> None:
        """After a step failed for several jobs together, find out which of them cannot do it alone."""
        if is_out_of_memory(error):
            self._room.ran_out(states[0], sum(state.rows for state in states), error)
            _log.warning("out of memory in a step of %d jobs: taking fewer together for a while", len(states))
        for state in self._jobs.still_active(states):
            self._progress()
            self._alone(state)

    def _alone(self, state: RequestState) -> bool:
        """Advance one job, or fail it. If there is no room for its two rows, they take turns from now on."""
        may_slice = self._padded_rows is None and state.rows > 1
        row_by_row = may_slice and self._room.rows(state) < state.rows
        try:
            return self._together([state], row_by_row=row_by_row)
        except Exception as error:
            if self._room.is_taken(error):
                self._room.wait_for(state)
            elif row_by_row or not may_slice or not is_out_of_memory(error):
                self._jobs.fail(state, told(error, f"rendering job {state.id}"))
            else:
                self._room.ran_out(state, state.rows, error)
                _log.warning("out of memory in a step of one job: its rows take turns for a while")
            return False

    def _together(self, states: Sequence[RequestState], *, row_by_row: bool = False) -> Literal[True]:
        """Run a step, and see what became of the jobs in the one before, which the device has done by now."""
        step = run_step(
            states,
            padded_rows=self._padded_rows,
            most_rows=self._max_rows,
            gradient_chunk=self._decoder.differentiated(states[0]),
            row_by_row=row_by_row,
        )
        self.check()
        self._commit(states, step)
        return True

    def _commit(self, states: Sequence[RequestState], step: Step) -> None:
        """Give each job its part of a step, and tell its observer."""
        mine = {state: index for index, state in enumerate(states) if self._jobs.still_active([state])}
        self._reports.traces([index for state, index in mine.items() if state.is_traced_now], states, step)
        self._reports.previews([index for state, index in mine.items() if state.is_previewed_now], states, step)
        for state, index in mine.items():
            losses = state.losses_of_step(step.losses[index])
            reached = step.reached.get(index)
            if not state.commit(step.x[index], step.history[index], step.x0[index], losses, reached):
                continue  # the second evaluation of its step comes next
            if losses:
                state.request.observer.on_losses(losses)
            state.request.observer.on_step(state.position)
        self._unchecked = Checks(states, step.x)
        done, due = [state for state in mine if state.is_done], [state for state in mine if self._is_due(state)]
        if done or due:
            self.check()
        for state in self._jobs.still_active(due):
            state.request.observer.on_snapshot(state.snapshot())
        for state in self._jobs.still_active(done):
            self._jobs.to_decoding(state)

    def _is_due(self, state: RequestState) -> bool:
        """Whether it is time for a snapshot. None is taken in the midst of a step."""
        return (
            not state.is_done and state.begun is None and 0 < self._snapshot_seconds <= time.monotonic() - state.saved
        )
