"""The engine: one thread, one device, many jobs, one step at a time.

    tick:  admit → choose rows → forward, guide, step → report → retire

Errands, which take no step, are done as jobs are admitted: between two ticks, so ahead of all pictures.

Jobs come and go at step boundaries. Each tick advances as many jobs of one batch key as there are rows for, and
then decodes at most one chunk of finished ones, so that decoding never holds up those that have steps to do.
An error in one job fails that job alone.

A step of an enormous picture can take a minute. Others whose steps are short take their turns in the midst of it,
between two of its operators (see `turns`).
"""

from __future__ import annotations

import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import torch

from farm.errors import RenderError
from worker.diffusion.losses import Losses
from worker.engine.decoding import Decoder
from worker.engine.errands import Errand, Errands
from worker.engine.failures import told
from worker.engine.jobs import Jobs
from worker.engine.memory import Budget, FreeBytes
from worker.engine.preparing import batch_key_of, prepare
from worker.engine.request import Rendered, RenderRequest, Suspended
from worker.engine.request_state import RequestState
from worker.engine.room import Room
from worker.engine.stepper import Stepper
from worker.engine.turns import LONGEST_SECONDS, SHORT_SECONDS, NotWanted, Turn, Turns

Answer = TypeVar("Answer")
_Message = Callable[[], None]

_INNERMOST = 6


class Engine:
    """Renders requests. `submit`, `cancel` and `stop` may be called from any thread.

    `max_rows` bounds the rows of one forward pass, and so does what `free` says of memory, in bytes (None: unknown).
    `deterministic` pads every forward to `max_rows` and decodes and differentiates one job at a time, so that a job's
    bytes do not depend on its company.
    A job's observer gets a snapshot every `snapshot_seconds` (0: never), so short jobs cost nothing.
    """

    def __init__(
        self,
        losses: Losses,
        *,
        max_rows: int,
        decode_chunk: int = 4,
        deterministic: bool = False,
        snapshot_seconds: float = 0.0,
        free: FreeBytes = lambda: None,
    ) -> None:
        self._losses = losses
        self._max_rows = max_rows
        self._deterministic = deterministic
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._arrivals = 0
        self._stopping = False
        self._busy_since: float | None = None
        self.rows = 0
        """How many rows its last step had; 0 while it waits for work."""
        padded_rows = max_rows if deterministic else None
        self._jobs = Jobs()
        self._turns = Turns()
        self._errands = Errands(self._turns)
        self._room = Room(Budget(free), self._turns, max_rows=max_rows, padded_rows=padded_rows)
        chunk = 1 if deterministic else decode_chunk
        self._decoder = Decoder(self._jobs, self._room, chunk, whole=deterministic, progress=self._note_progress)
        self._stepper = Stepper(
            self._jobs,
            self._room,
            self._decoder,
            max_rows=max_rows,
            padded_rows=padded_rows,
            snapshot_seconds=snapshot_seconds,
            progress=self._note_progress,
        )
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # From other threads

    def start(self) -> None:
        self._thread.start()

    def submit(self, request: RenderRequest) -> Future[Rendered]:
        """Render `request`. The future raises `Cancelled`, or `FarmError` saying why it cannot be rendered."""
        future: Future[Rendered] = Future()
        self._inbox.put(lambda: self._prepare(request, future))
        return future

    def errand(self, id: str, work: Callable[[], Answer], *, in_parts: bool = False) -> Future[Answer]:
        """Have `work` done on the engine's thread before its next tick: something short that a model is asked.

        What is of a large picture has long attention done `in_parts`, so that it shows that it lives (see `beats`).
        The future raises what `work` does, as people are told of it; `Cancelled` if the engine ends before.
        """
        future: Future[Answer] = Future()
        self._inbox.put(lambda: self._errands.add(Errand(id, work, in_parts, future)))
        return future

    def cancel(self, job: str) -> None:
        """Drop a job at the next step boundary; its future raises `Cancelled`. Unknown jobs are ignored."""
        self._inbox.put(lambda: self._jobs.cancel([job]))

    def want_preview(self, job: str) -> None:
        """Give the job's observer one preview, at the next step that is not its last. Unknown jobs are ignored."""
        self._inbox.put(lambda: self._want_preview(job))

    def cancel_all(self) -> None:
        """Drop every job and every errand at the next step boundary."""
        self._inbox.put(self._jobs.cancel)
        self._inbox.put(self._errands.drop)

    def suspend_all(self) -> None:
        """Let go of every job at the next step boundary: its future raises `Suspended`. Those that have had their last
        step are finished."""
        self._inbox.put(self._suspend_active)

    def stop(self) -> None:
        """Drop every job, end the thread and wait for it."""
        self.cancel_all()
        self._inbox.put(self._end)
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def busy_for(self) -> float:
        """Seconds since the engine began what it is doing now; 0 when it waits for work."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def whereabouts(self) -> str:
        """What the engine's thread does right now: its innermost calls, on one line."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        calls = traceback.extract_stack(frame)[-_INNERMOST:] if frame else []
        return " > ".join(f"{Path(call.filename).name}:{call.lineno} {call.name}" for call in calls)

    # On the engine's thread

    def _run(self) -> None:
        while not self._stopping:
            self._admit()
            self._room.meet(list(self._jobs.active.values()))
            self._meet_all()
            self._step(self._jobs.active.values(), seconds=LONGEST_SECONDS)
            self._retire(self._jobs.decoding)

    def _admit(self) -> None:
        """Take in what other threads sent; with nothing to render, wait for it. Late jobs go."""
        for request, future in self._jobs.take_put_off():  # nobody holds memory any more
            self._inbox.put(partial(self._prepare, request, future, needs_all_room=True))
        if not self._jobs.all and not self._errands:
            self._busy_since, self.rows = None, 0
            message = self._inbox.get()
            self._note_progress()
            message()
        self._read_messages()
        self._errands.run(self._note_progress)
        self._fail_late()

    def _read_messages(self) -> None:
        while not self._inbox.empty():
            self._note_progress()
            self._inbox.get()()

    def _note_progress(self) -> None:
        """A new piece of work begins, so the last one has ended: the engine does not hang."""
        self._busy_since = time.monotonic()

    def _end(self) -> None:
        self._stopping = True

    def _prepare(self, request: RenderRequest, future: Future[Rendered], *, needs_all_room: bool = False) -> None:
        """Make a request ready for its first step; an error is this job's alone."""
        self._arrivals += 1
        between = self._live if needs_all_room else self._let_cut_in
        try:
            batch_key = batch_key_of(request, deterministic=self._deterministic)
        except Exception as error:
            future.set_exception(told(error, f"reading the prompts of job {request.id}"))
            return
        with self._turns.taken(batch_key, request.priority, between=between):
            try:
                state = prepare(request, self._losses, self._arrivals, future, deterministic=self._deterministic)
                self._jobs.start(state)
            except Exception as error:
                if self._room.is_taken(error):
                    self._jobs.put_off(request, future)
                else:
                    future.set_exception(told(error, f"preparing job {request.id}"))

    def _want_preview(self, job: str) -> None:
        if job in self._jobs.active:
            self._jobs.active[job].wants_preview = True

    def _suspend_active(self) -> None:
        self._stepper.check()
        for state in list(self._jobs.active.values()):
            self._jobs.fail(state, Suspended(state.id, state.snapshot()))

    def _fail_late(self) -> None:
        for state in [state for state in self._jobs.active.values() if state.is_late]:
            limit = state.request.spec.time_limit
            message = f"not done within its time limit of {limit:g} s: {state.position} of {state.plan.steps} steps"
            self._jobs.fail(state, RenderError("timeout", message))

    def _step(self, candidates: Iterable[RequestState], *, seconds: float) -> None:
        """Advance those of the jobs that get rows by one step, which is to take at most this long."""
        chosen = [self._jobs.active[job] for job in self._turns.choose(candidates, self._max_rows)]
        if not chosen:
            return
        states = _within(self._room.rows_within(seconds, chosen[0]), chosen)
        with self._turn_of(states) as turn:
            self.rows = rows = sum(state.rows for state in states)
            if self._stepper.advance(states):
                self._turns.took(turn, rows)

    def _retire(self, done: Sequence[RequestState]) -> None:
        """Decode one chunk of the jobs that have had their last step."""
        if done:
            chunk = self._decoder.next_chunk(done)
            with self._turn_of(chunk):
                self._decoder.finish(chunk)

    # Taking turns

    def _turn_of(self, states: Sequence[RequestState]) -> AbstractContextManager[Turn]:
        """The device is theirs during the block. If that may be long, it ends early when nobody wants it any more."""

        def between(turn: Turn) -> None:
            self._live(turn)
            self._read_messages()
            self._fail_late()
            if self._stopping or not any(state.is_wanted for state in states):
                raise NotWanted
            if not any(state.needs_all_room for state in states):
                self._let_cut_in(turn)

        priority = max(state.request.priority for state in states)
        # Whether it is done in parts must not depend on how quick the machine is: parts may have other last bits.
        is_large = states[0].is_large
        may_be_long = is_large or not self._turns.is_short(states[0])
        return self._turns.taken(
            states[0].batch_key,
            priority,
            between=between if may_be_long else None,
            in_parts=is_large,
            event=torch.cuda.Event if is_large and states[0].request.model.device.type == "cuda" else None,
        )

    def _live(self, _: Turn) -> None:
        """In the midst of a long turn: it does not hang."""
        self._note_progress()

    def _let_cut_in(self, turn: Turn) -> None:
        """In the midst of a long turn: show that it lives, and let those go first who may."""
        self._note_progress()
        self._meet_all()
        while first := self._turns.first(self._jobs.active.values(), turn):
            self._step(first, seconds=SHORT_SECONDS)
        while done := [state for state in self._jobs.decoding if self._turns.may_cut_in(state)]:
            self._retire(done)

    def _meet_all(self) -> None:
        self._turns.meet(self._jobs.all)


def _within(most: int, states: Sequence[RequestState]) -> list[RequestState]:
    """As many of the first jobs as have at most `most` rows together, but at least one."""
    rows = accumulate(state.rows for state in states)
    fitting = [state for state, sum_of_rows in zip(states, rows, strict=True) if sum_of_rows <= most]
    return fitting or list(states[:1])
