"""The engine: one thread, one device, many jobs, one step at a time.

    tick:  admit → choose rows → forward, guide, step → report → retire

Jobs come and go at step boundaries. Each tick advances as many jobs of one group as there are rows for, and
then decodes at most one chunk of finished ones, so that decoding never holds up those still in flight.
An error in one job fails that job alone.

A step of an enormous picture can take a minute. Others whose steps are short take their turns in the midst of it,
between two of its operators (see `turns`).
"""

from __future__ import annotations

import logging
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
from typing import Literal

import torch
from torch import Tensor

from farm.errors import FarmError, RenderError
from worker.diffusion.losses import Losses
from worker.engine.decoding import Decoder
from worker.engine.finite import Checks
from worker.engine.memory import Budget, FreeBytes, RowCaps, release
from worker.engine.request import Cancelled, Pixels, Rendered, RenderRequest, StepRecord, Suspended
from worker.engine.request_state import Flight, board, group_of
from worker.engine.rows import Step, advance
from worker.engine.turns import LONGEST_SECONDS, SHORT_SECONDS, NotWanted, Turn, Turns
from worker.models.memory_profile import is_out_of_memory

_log = logging.getLogger(__name__)

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
        self._padded_rows = max_rows if deterministic else None
        self._snapshot_seconds = snapshot_seconds
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._flying: dict[str, Flight] = {}
        self._landing: list[Flight] = []
        self._put_off: dict[str, tuple[RenderRequest, Future[Rendered]]] = {}
        self._arrivals = 0
        self._stopping = False
        self._caps = RowCaps()
        self._budget = Budget(free)
        self._decoder = Decoder(self._budget, 1 if deterministic else decode_chunk, whole=deterministic)
        self._unchecked: Checks | None = None
        self._turns = Turns()
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # From other threads

    def start(self) -> None:
        self._thread.start()

    def submit(self, request: RenderRequest) -> Future[Rendered]:
        """Render `request`. The future raises `Cancelled`, or `FarmError` saying why it cannot be rendered."""
        future: Future[Rendered] = Future()
        self._inbox.put(lambda: self._board(request, future))
        return future

    def cancel(self, job: str) -> None:
        """Drop a job at the next step boundary; its future raises `Cancelled`. Unknown jobs are ignored."""
        self._inbox.put(lambda: self._drop(job))

    def look_at(self, job: str) -> None:
        """Give the job's observer one preview, at the next step that is not its last. Unknown jobs are ignored."""
        self._inbox.put(lambda: self._look_at(job))

    def cancel_all(self) -> None:
        """Drop every job at the next step boundary."""
        self._inbox.put(
            lambda: self._drop_many([*self._flying, *self._put_off, *(flight.id for flight in self._landing)])
        )

    def suspend_all(self) -> None:
        """Let go of every job at the next step boundary: its future raises `Suspended`. Those that have had their last
        step are finished."""
        self._inbox.put(self._suspend_flying)

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
            self._send_put_off()
            self._read_messages()
            self._drop_late()
            self._tick()
            self._retire(self._landing)

    def _read_messages(self) -> None:
        """Take in what other threads sent; with nothing to render, wait for it."""
        if not self._flying and not self._landing:
            self._busy_since = None
            message = self._inbox.get()
            self._note_progress()
            message()
        self._read_what_has_come()

    def _read_what_has_come(self) -> None:
        while not self._inbox.empty():
            self._note_progress()
            self._inbox.get()()

    def _note_progress(self) -> None:
        """A new piece of work begins, so the last one has ended: the engine does not hang."""
        self._busy_since = time.monotonic()

    def _end(self) -> None:
        self._stopping = True

    def _board(self, request: RenderRequest, future: Future[Rendered], *, needs_all_room: bool = False) -> None:
        self._arrivals += 1
        between = self._live if needs_all_room else self._let_cut_in
        with self._turns.taken(group_of(request), request.priority, between=between):
            try:
                self._flying[request.id] = board(request, self._losses, self._arrivals, future)
            except Exception as error:  # whatever it is, it is this job's alone
                if not self._lacks_others_room(error):
                    future.set_exception(_as_farm_error(error, f"preparing job {request.id}"))
                    return
                self._put_off[request.id] = request, future

    def _lacks_others_room(self, error: Exception) -> bool:
        """Whether an error is for want of memory that others hold or held, around this turn or in its midst.

        It says nothing of the job then.
        """
        if not (is_out_of_memory(error) and (self._turns.is_within_another or self._turns.was_shared)):
            return False
        release(error)
        return True

    def _wait_for_room(self, flight: Flight) -> None:
        """A job comes again when the turns around this one are over, and then nobody cuts in."""
        flight.needs_all_room = True
        self._turns.put_off(flight.group)

    def _send_put_off(self) -> None:
        """Nobody holds memory any more: those for whom it did not do come again."""
        put_off, self._put_off = self._put_off, {}
        for request, future in put_off.values():
            self._inbox.put(partial(self._board, request, future, needs_all_room=True))

    def _look_at(self, job: str) -> None:
        if job in self._flying:
            self._flying[job].is_looked_at = True

    def _drop(self, job: str) -> None:
        self._drop_many([job])

    def _drop_many(self, jobs: Iterable[str]) -> None:
        dropped = set(jobs)
        for job in dropped & self._put_off.keys():
            self._put_off.pop(job)[1].set_exception(Cancelled(job))
        for flight in [f for f in (*self._flying.values(), *self._landing) if f.id in dropped]:
            self._fail(flight, Cancelled(flight.id))

    def _suspend_flying(self) -> None:
        self._check()
        for flight in list(self._flying.values()):
            self._fail(flight, Suspended(flight.id, flight.snapshot()))

    def _drop_late(self) -> None:
        for flight in [flight for flight in self._flying.values() if flight.is_late]:
            limit = flight.request.spec.time_limit
            message = f"not done within its time limit of {limit:g} s: {flight.position} of {flight.plan.steps} steps"
            self._fail(flight, RenderError("timeout", message))

    def _tick(self) -> None:
        """Advance the jobs that get rows by one step."""
        self._caps.keep_only({flight.group for flight in self._flying.values()})
        self._meet_all()
        self._step_of(self._flying.values(), seconds=LONGEST_SECONDS)

    def _step_of(self, candidates: Iterable[Flight], *, seconds: float) -> None:
        """Advance those of the jobs that get rows by one step, which is to take so long at the most."""
        flights = [self._flying[job] for job in self._turns.choose(candidates, self._max_rows)]
        if not flights:
            return
        self._note_progress()
        flights = _within(self._rows(flights[0], seconds), flights)
        with self._turn_of(flights) as turn:
            try:
                fitted = self._go_on_alone(flights[0]) if len(flights) == 1 else self._go_on(flights)
            except Exception as error:
                self._one_by_one(flights, error)
                return
            if fitted:
                self._caps.fitted(turn.group, most=self._max_rows)
                self._turns.took(turn, sum(flight.rows for flight in flights))

    def _rows(self, flight: Flight, seconds: float) -> int:
        """How many rows of a job's group to take together: as memory allows and, but of a deterministic worker, time.

        Before a group's first step nobody knows, and one job is taken.
        """
        if self._padded_rows is not None:
            return self._cap(flight)
        return min(self._cap(flight), self._turns.rows_in(seconds, flight) or flight.rows)

    def _cap(self, flight: Flight) -> int:
        """How many rows of a job's group to take together, by what is known of memory."""
        if self._padded_rows is not None:
            return self._caps.of(flight.group) or self._max_rows
        return self._budget.rows(flight.request.model, flight.x.shape, self._caps.of(flight.group) or self._max_rows)

    # Taking turns

    def _turn_of(self, flights: Sequence[Flight]) -> AbstractContextManager[Turn]:
        """The device is theirs during the block. If that may be long, it ends early when nobody wants it any more."""

        def between(turn: Turn) -> None:
            self._live(turn)
            self._read_what_has_come()
            self._drop_late()
            if self._stopping or not any(map(_is_wanted, flights)):
                raise NotWanted
            if not any(flight.needs_all_room for flight in flights):
                self._let_cut_in(turn)

        priority = max(flight.request.priority for flight in flights)
        # Whether it is done in parts must not depend on how quick the machine is: parts may have other last bits.
        is_large = flights[0].is_large
        may_be_long = is_large or not self._turns.is_short(flights[0])
        return self._turns.taken(
            flights[0].group,
            priority,
            between=between if may_be_long else None,
            in_parts=is_large,
            event=torch.cuda.Event if is_large and flights[0].request.model.device.type == "cuda" else None,
        )

    def _live(self, _: Turn) -> None:
        """In the midst of a long turn: it does not hang."""
        self._note_progress()

    def _let_cut_in(self, turn: Turn) -> None:
        """In the midst of a long turn: live, and let those go first who do."""
        self._note_progress()
        self._meet_all()
        while first := self._turns.first(self._flying.values(), turn):
            self._step_of(first, seconds=SHORT_SECONDS)
        while landed := [flight for flight in self._landing if self._turns.may_cut_in(flight)]:
            self._retire(landed)

    def _meet_all(self) -> None:
        self._turns.meet((*self._flying.values(), *self._landing))

    def _one_by_one(self, flights: Sequence[Flight], error: Exception) -> None:
        """After a step failed for several jobs together, find out which of them cannot do it alone."""
        if is_out_of_memory(error):
            release(error)
            self._caps.ran_out(flights[0].group, sum(flight.rows for flight in flights))
            _log.warning("out of memory in a step of %d jobs: taking fewer together for a while", len(flights))
        for flight in self._still_flying(flights):
            self._note_progress()
            self._go_on_alone(flight)

    def _go_on_alone(self, flight: Flight) -> bool:
        """Advance one job by a step, or fail it. If there is no room for its two rows, they take turns from now on."""
        may_slice = self._padded_rows is None and flight.rows > 1
        row_by_row = may_slice and self._cap(flight) < flight.rows
        try:
            return self._go_on([flight], row_by_row=row_by_row)
        except Exception as error:
            if self._lacks_others_room(error):
                self._wait_for_room(flight)
            elif row_by_row or not may_slice or not is_out_of_memory(error):
                self._fail(flight, _as_farm_error(error, f"rendering job {flight.id}"))
            else:
                release(error)
                self._caps.ran_out(flight.group, flight.rows)
                _log.warning("out of memory in a step of one job: its rows take turns for a while")
            return False

    def _advance(self, flights: Sequence[Flight], *, row_by_row: bool) -> Step:
        chunk = self._decoder.differentiated(flights[0])
        return advance(flights, padded_rows=self._padded_rows, gradient_chunk=chunk, row_by_row=row_by_row)

    def _go_on(self, flights: Sequence[Flight], *, row_by_row: bool = False) -> Literal[True]:
        """Advance jobs by a step, and see what became of them in the one before, which the device has done by now."""
        step = self._advance(flights, row_by_row=row_by_row)
        self._check()
        self._take(flights, step)
        return True

    def _take(self, flights: Sequence[Flight], step: Step) -> None:
        """Give each job its part of a step, and tell its observer."""
        mine = {flight: index for index, flight in enumerate(flights) if self._still_flying([flight])}
        self._report_traces([index for flight, index in mine.items() if flight.is_traced_now], flights, step)
        self._report_previews([index for flight, index in mine.items() if flight.is_previewed_now], flights, step)
        for flight, index in mine.items():
            flight.advance(step.x[index], step.history[index])
            flight.request.observer.on_step(flight.position)
        self._unchecked = Checks(flights, step.x)
        done, due = [flight for flight in mine if flight.is_done], [flight for flight in mine if self._is_due(flight)]
        if done or due:
            self._check()
        for flight in self._still_flying(due):
            flight.request.observer.on_snapshot(flight.snapshot())
        for flight in self._still_flying(done):
            flight.landed = time.monotonic()
            self._landing.append(self._flying.pop(flight.id))

    def _check(self) -> None:
        """Fail the jobs whose last step gave numbers that are not finite."""
        checks, self._unchecked = self._unchecked, None
        for flight, step in checks.failed() if checks else ():
            if self._still_flying([flight]):
                self._fail(flight, RenderError("nan", f"step {step} gave numbers that are not finite"))

    def _still_flying(self, flights: Iterable[Flight]) -> list[Flight]:
        return [flight for flight in flights if self._flying.get(flight.id) is flight]

    def _is_due(self, flight: Flight) -> bool:
        """Whether it is time for a snapshot."""
        return not flight.is_done and 0 < self._snapshot_seconds <= time.monotonic() - flight.saved

    def _report_traces(self, traced: Sequence[int], flights: Sequence[Flight], step: Step) -> None:
        framed = [index for index in traced if flights[index].wants_frames]
        frames = dict(zip(framed, self._frames(flights, framed, step), strict=True))
        for index in traced:
            flight = flights[index]
            flight.request.observer.on_trace(_record(flight, index, step), frames.get(index))

    def _frames(self, flights: Sequence[Flight], framed: Sequence[int], step: Step) -> list[Pixels]:
        """The latents after this step and the predicted x_0, decoded side by side: [height, 2·width, 3] each."""
        if not framed:
            return []
        pairs = torch.stack([step.x[framed], step.x0[framed]], dim=1).flatten(0, 1)
        decoded = self._decoder.pixels(flights[0], pairs)
        return [torch.cat([noisy, clean], dim=1).cpu().numpy() for noisy, clean in decoded.unflatten(0, (-1, 2))]

    def _report_previews(self, looked_at: Sequence[int], flights: Sequence[Flight], step: Step) -> None:
        for index, pixels in zip(looked_at, _previews(flights, looked_at, step), strict=False):
            flights[index].request.observer.on_preview(flights[index].position + 1, pixels)

    def _retire(self, landed: Sequence[Flight]) -> None:
        """Decode one chunk of finished jobs, all of one group."""
        if not landed:
            return
        self._note_progress()
        together = self._decoder.together(landed[0])
        chunk = [flight for flight in landed if flight.group == landed[0].group][:together]
        with self._turn_of(chunk):
            try:
                pixels = self._decoder.pixels(chunk[0], torch.stack([flight.x for flight in chunk]))
            except Exception as error:
                self._retire_one_by_one(chunk, error)
                return
            for flight, picture in zip(chunk, pixels, strict=True):
                self._finish(flight, picture)

    def _retire_one_by_one(self, chunk: Sequence[Flight], error: Exception) -> None:
        if len(chunk) == 1:
            self._land_alone(chunk[0], error)
            return
        if is_out_of_memory(error):
            release(error)
            self._decoder.ran_out()
        for flight in chunk:
            self._note_progress()
            try:
                self._finish(flight, self._decoder.pixels(flight, flight.x[None])[0])
            except Exception as own_error:
                self._land_alone(flight, own_error)

    def _land_alone(self, flight: Flight, error: Exception) -> None:
        """A picture could not be decoded though it was alone. If there was no room for it, there may be for tiles."""
        if self._lacks_others_room(error):
            self._wait_for_room(flight)
            return
        if is_out_of_memory(error) and not self._decoder.whole:
            release(error)
            try:
                self._finish(flight, self._decoder.pixels(flight, flight.x[None], in_tiles=True)[0])
            except Exception as last_error:
                self._fail(flight, _as_farm_error(last_error, f"decoding job {flight.id}"))
        else:
            self._fail(flight, _as_farm_error(error, f"decoding job {flight.id}"))

    def _finish(self, flight: Flight, picture: Tensor) -> None:
        if not _is_wanted(flight):
            return
        self._landing.remove(flight)
        now = time.monotonic()
        timings = {"render": flight.landed - flight.boarded, "decode": now - flight.landed}
        flight.future.set_result(Rendered(picture.cpu().numpy(), flight.warnings, timings))

    def _fail(self, flight: Flight, error: Exception) -> None:
        if not _is_wanted(flight):
            return
        self._flying.pop(flight.id, None)
        if flight in self._landing:
            self._landing.remove(flight)
        flight.future.set_exception(error)


def _is_wanted(flight: Flight) -> bool:
    """Whether anybody waits for the job."""
    return not flight.future.done()


def _within(cap: int, flights: Sequence[Flight]) -> list[Flight]:
    """As many of the first flights as have at most `cap` rows together, but one."""
    rows = accumulate(flight.rows for flight in flights)
    fitting = [flight for flight, sum_of_rows in zip(flights, rows, strict=True) if sum_of_rows <= cap]
    return fitting or list(flights[:1])


def _previews(flights: Sequence[Flight], looked_at: Sequence[int], step: Step) -> Sequence[Pixels]:
    """What jobs look like by the linear map, [h, w, 3] each; none if that fails, for no job may fail for a look."""
    for index in looked_at:
        flights[index].is_looked_at = False
    try:
        return list(flights[0].request.model.preview.render(step.x0[looked_at]).cpu().numpy()) if looked_at else []
    except Exception:
        _log.warning("no previews could be made", exc_info=True)
        return []


def _record(flight: Flight, index: int, step: Step) -> StepRecord:
    norms = {"x": flight.x, "x0": step.x0[index], "output": step.out[index]}
    return StepRecord(
        step=flight.step,
        timestep=float(flight.plan.timestep[flight.position]),
        sigma=float(flight.plan.sigma[flight.position]),
        norms={name: float(tensor.norm()) for name, tensor in norms.items()},
        losses=step.losses[index],
    )


def _as_farm_error(error: Exception, doing: str) -> Exception:
    """`error` as one to tell the user; one that nobody foresaw is logged with its traceback."""
    if isinstance(error, (FarmError, Cancelled)):
        return error
    if is_out_of_memory(error):
        release(error)
        hint = "use a smaller width and height, or fewer rows of a deterministic worker"
        return RenderError("memory", f"out of memory while {doing}", hint=hint)
    _log.error("unexpected error while %s", doing, exc_info=error)
    return RenderError("internal", f"unexpected error while {doing}: {type(error).__name__}: {error}")
