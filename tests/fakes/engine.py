"""An engine that renders every job at once, as one colour, on the thread of whoever submits it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future

import numpy as np
import torch

from farm.jobs.spec import ResolvedSpec
from worker.diffusion.guidance import needs_unconditional
from worker.diffusion.noise import NoiseStream
from worker.diffusion.steps import HISTORY
from worker.engine.engine import Answer, Engine
from worker.engine.request import (
    Cancelled,
    Pixels,
    Rendered,
    RenderRequest,
    Snapshot,
    StepRecord,
    Suspended,
    latent_shape,
)

COLOUR = (40, 80, 200)


class FakeEngine(Engine):
    """What is to happen in the midst of a job is done by its observer, or as `before_each`, or by `failures`: errors by
    the engine's name of a job. With `snapshot_every` steps observers get a snapshot."""

    def __init__(self, *, snapshot_every: int = 0) -> None:
        self._snapshot_every = snapshot_every
        self._rendering: set[str] = set()
        self._cancelled: set[str] = set()
        self._previews: set[str] = set()
        self._is_suspended = False
        self.failures: Mapping[str, Exception] = {}
        self.before_each: Callable[[], object] = lambda: None
        self.rendered: list[RenderRequest] = []

    def start(self) -> None:
        pass

    def stop(self) -> None:
        self.cancel_all()

    def submit(self, request: RenderRequest) -> Future[Rendered]:
        future: Future[Rendered] = Future()
        self.rendered.append(request)
        self._rendering.add(request.id)
        try:
            future.set_result(self._render(request))
        except Exception as error:
            future.set_exception(error)
        finally:
            self._rendering.discard(request.id)
            self._cancelled.discard(request.id)
            self._previews.discard(request.id)
            self._is_suspended = False
        return future

    def errand(self, id: str, work: Callable[[], Answer], *, in_parts: bool = False) -> Future[Answer]:
        future: Future[Answer] = Future()
        try:
            self.before_each()
            if id in self.failures:
                raise self.failures[id]
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)
        return future

    def cancel(self, job: str) -> None:
        self._cancelled |= {job} & self._rendering

    def cancel_all(self) -> None:
        self._cancelled |= self._rendering

    def want_preview(self, job: str) -> None:
        self._previews |= {job} & self._rendering

    def suspend_all(self) -> None:
        self._is_suspended = bool(self._rendering)

    @property
    def is_alive(self) -> bool:
        return True

    def busy_for(self) -> float:
        return 0.0

    def whereabouts(self) -> str:
        return "nowhere"

    def _render(self, request: RenderRequest) -> Rendered:
        self.before_each()
        position = request.resume.position if request.resume else 0
        while position < request.spec.steps_to_do:
            self._between_steps(request, position)
            self._take_step(request, position)
            position += 1
        return Rendered(_plain(request), (), {"render": 0.0, "decode": 0.0})

    def _between_steps(self, request: RenderRequest, position: int) -> None:
        if request.id in self._cancelled:
            raise Cancelled
        if self._is_suspended:
            raise Suspended(request.id, _snapshot(request, position))
        if request.id in self.failures:
            raise self.failures[request.id]
        if self._snapshot_every and position and position % self._snapshot_every == 0:
            request.observer.on_snapshot(_snapshot(request, position))

    def _take_step(self, request: RenderRequest, position: int) -> None:
        """The step from `position` on."""
        spec, observer = request.spec, request.observer
        is_last = position + 1 == spec.steps_to_do
        if request.id in self._previews and not is_last:
            self._previews.discard(request.id)
            shape = latent_shape(spec, request.model)
            observer.on_preview(position + 1, np.full((*shape[1:], 3), COLOUR, np.uint8))
        if spec.trace.level != "none" and (is_last or position % spec.trace.every == 0):
            shown = spec.trace.level in ("frames", "video")
            frame = np.full((spec.height, 2 * spec.width, 3), COLOUR, np.uint8) if shown else None
            if frame is not None and position == 0 and request.picture is not None:
                observer.on_start(frame)
            observer.on_trace(_record(spec, position), frame)
        observer.on_step(position + 1)


def _record(spec: ResolvedSpec, position: int) -> StepRecord:
    names = ["x", "x_next", "x0", "output"]
    guidance = None
    if needs_unconditional(spec.guidance.scale):
        names += ["conditional", "unconditional"]
        guidance = {"angle": 0.0, "distance": 0.0}
    norms = dict.fromkeys(names, 1.0)
    return StepRecord(spec.start.step + position, 0.0, 1.0, norms, {}, guidance, 0.0 if position else None)


def _plain(request: RenderRequest) -> Pixels:
    return np.full((request.spec.height, request.spec.width, 3), COLOUR, np.uint8)


def _snapshot(request: RenderRequest, position: int) -> Snapshot:
    shape = latent_shape(request.spec, request.model)
    return Snapshot(position, torch.zeros(shape), torch.zeros((HISTORY, *shape)), NoiseStream(seed=0).state, 0.0)
