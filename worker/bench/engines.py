"""The arms that are the farm's: its engine, its engine held to equal guidance and sampler, and static batches.

Static batches are run by the engine's own kernels: unlike jobs, padded to the longest of the batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from farm.jobs.spec import SamplerName
from worker.bench.measure import Served
from worker.bench.workloads import Job
from worker.diffusion import latents
from worker.diffusion.losses import load_losses
from worker.engine.engine import Engine
from worker.engine.preparing import prepare
from worker.engine.request import Pixels, Rendered, RenderRequest, SilentObserver, StepRecord
from worker.engine.request_state import RequestState
from worker.engine.rows import run_step
from worker.models.model import LoadedModel

DECODE_CHUNK = 4


@dataclass(frozen=True)
class Engines:
    """The engine's arms over one model. `slots` jobs are in flight at once, as in a worker."""

    model: LoadedModel
    rows: int
    slots: int
    deterministic: bool = False

    def mixed(self, jobs: Sequence[Job], clock: Callable[[], float]) -> list[Served]:
        """All jobs through one engine, as a worker has it."""
        return self._render(jobs, clock, lambda _: self.model)

    def only_alike(self, jobs: Sequence[Job], clock: Callable[[], float]) -> list[Served]:
        """The engine, but rows are shared among jobs of equal guidance and sampler only."""
        separate: dict[tuple[float | None, SamplerName], LoadedModel] = {}

        def model_of(job: Job) -> LoadedModel:  # a model of its own is a batch key of its own
            kind = job.spec.guidance.scale, job.spec.sampler
            return separate.setdefault(kind, replace(self.model))

        return self._render(jobs, clock, model_of)

    def alone(self, jobs: Sequence[Job], clock: Callable[[], float]) -> list[Served]:
        """The engine with one job at a time."""
        return replace(self, slots=1).mixed(jobs, clock)

    def _render(
        self, jobs: Sequence[Job], clock: Callable[[], float], model_of: Callable[[Job], LoadedModel]
    ) -> list[Served]:
        free = threading.Semaphore(self.slots)
        served: list[Served] = []
        futures: list[Future[Rendered]] = []
        for job in jobs:
            free.acquire()
            one = Served(job.id)
            observer = _Clocked(one, clock)
            request = RenderRequest(
                *(job.id, job.spec, model_of(job)),
                picture=job.picture,
                mask=job.mask,
                stack=job.stack,
                observer=observer,
            )
            future = self._engine.submit(request)
            future.add_done_callback(_note_end(one, clock, free))
            served.append(one)
            futures.append(future)
        for one, future in zip(served, futures, strict=True):
            one.pixels = future.result().pixels
        return served

    @cached_property
    def _engine(self) -> Engine:
        """One for all runs, as a worker has it: what a GPU needs for the first forward of a shape is kept by thread."""
        engine = Engine(load_losses(), max_rows=self.rows, deterministic=self.deterministic)
        engine.start()
        return engine


class _Clocked(SilentObserver):
    """Notes when a job's first step was done, which is when its first preview could be seen."""

    def __init__(self, served: Served, clock: Callable[[], float]) -> None:
        self._served = served
        self._clock = clock

    def on_step(self, done: int) -> None:
        if done == 1:
            self._served.first_step = self._clock()

    def on_trace(self, record: StepRecord, frame: Pixels | None) -> None:
        pass


def _note_end(served: Served, clock: Callable[[], float], free: threading.Semaphore) -> Callable[[object], None]:
    def note(_: object) -> None:
        served.done = clock()
        free.release()

    return note


def padded(
    model: LoadedModel, jobs: Sequence[Job], clock: Callable[[], float], *, batch: int, rows: int
) -> list[Served]:
    """Static batches of `batch` jobs: rows of jobs that are done go along until the longest is done too.

    No forward has more than `rows` rows; a batch that needs more is advanced in parts.
    """
    return [
        one
        for start in range(0, len(jobs), batch)
        for one in _one_batch(model, jobs[start : start + batch], clock, rows)
    ]


def _one_batch(model: LoadedModel, jobs: Sequence[Job], clock: Callable[[], float], rows: int) -> list[Served]:
    served = [Served(job.id) for job in jobs]
    losses = load_losses()
    states = [
        prepare(RenderRequest(job.id, job.spec, model, picture=job.picture), losses, number, Future())
        for number, job in enumerate(jobs)
    ]
    final: dict[str, torch.Tensor] = {}
    for index in range(max(len(state.plan.table) for state in states)):
        for part in _parts(states, rows):
            _step(part, final)
        if index == 0:
            for one in served:
                one.first_step = clock()
    pictures = torch.stack([final[state.id] for state in states]).split(DECODE_CHUNK)
    with torch.no_grad():
        pixels = torch.cat([latents.to_pixels(latents.decode(model.vae, part)) for part in pictures]).cpu().numpy()
    for one, picture in zip(served, pixels, strict=True):
        one.done, one.pixels = clock(), picture
    return served


def _step(states: Sequence[RequestState], final: dict[str, torch.Tensor]) -> None:
    step = run_step(states, padded_rows=None, gradient_chunk=DECODE_CHUNK)
    for index, state in enumerate(states):
        if state.id in final:
            continue
        if state.is_at_last_step and state.ends_step:
            final[state.id] = step.x[index]
        else:
            state.commit(step.x[index], step.history[index], step.x0[index], step.losses[index])


def _parts(states: Sequence[RequestState], rows: int) -> list[list[RequestState]]:
    parts: list[list[RequestState]] = [[]]
    for state in states:
        if parts[-1] and sum(other.rows for other in parts[-1]) + state.rows > rows:
            parts.append([])
        parts[-1].append(state)
    return parts
