"""The jobs of an engine: those that have steps to do, those whose picture is to be decoded, and how each ends."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from worker.engine.request import Cancelled, Rendered, RenderRequest
from worker.engine.request_state import RequestState


@dataclass
class Jobs:
    """Every request that the engine has not answered yet."""

    active: dict[str, RequestState] = field(default_factory=dict)
    """By id, those that have steps to do."""
    decoding: list[RequestState] = field(default_factory=list)
    """Those that have had their last step."""
    _put_off: dict[str, tuple[RenderRequest, Future[Rendered]]] = field(default_factory=dict)

    @property
    def all(self) -> list[RequestState]:
        return [*self.active.values(), *self.decoding]

    def start(self, state: RequestState) -> None:
        """A job is ready for its first step."""
        self.active[state.id] = state

    def still_active(self, states: Iterable[RequestState]) -> list[RequestState]:
        """Those of the jobs that have neither ended nor had their last step in the meantime."""
        return [state for state in states if self.active.get(state.id) is state]

    def to_decoding(self, state: RequestState) -> None:
        """A job has had its last step."""
        state.last_step_at = time.monotonic()
        self.decoding.append(self.active.pop(state.id))

    def put_off(self, request: RenderRequest, future: Future[Rendered]) -> None:
        """A request could not be prepared beside others: it comes again when they are done."""
        self._put_off[request.id] = request, future

    def take_put_off(self) -> Collection[tuple[RenderRequest, Future[Rendered]]]:
        """The requests that were put off, and no longer are."""
        put_off, self._put_off = self._put_off, {}
        return put_off.values()

    def finish(self, state: RequestState, picture: Tensor) -> None:
        """Answer a job with its picture [height, width, 3], if anybody still waits for it."""
        if not state.is_wanted:
            return
        self.decoding.remove(state)
        now = time.monotonic()
        timings = {
            "text": state.preparing,
            "render": state.last_step_at - state.started,
            "decode": now - state.last_step_at,
        }
        state.future.set_result(Rendered(picture.cpu().numpy(), state.warnings, timings, state.report))

    def fail(self, state: RequestState, error: Exception) -> None:
        """Answer a job with an error, if anybody still waits for it."""
        if not state.is_wanted:
            return
        self.active.pop(state.id, None)
        if state in self.decoding:
            self.decoding.remove(state)
        state.future.set_exception(error)

    def cancel(self, jobs: Collection[str] | None = None) -> None:
        """End jobs by id, or all of them, with `Cancelled`. Unknown ones are ignored."""
        for job in [job for job in self._put_off if jobs is None or job in jobs]:
            self._put_off.pop(job)[1].set_exception(Cancelled(job))
        for state in [state for state in self.all if jobs is None or state.id in jobs]:
            self.fail(state, Cancelled(state.id))
