"""It works: every kind of job, in the precisions that GPUs have, and as much memory as was foretold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from tests.gpu.facts import Facts
from tests.gpu.subjects import Kind, Subjects, every_kind, requests
from worker.bench import costing, workloads
from worker.diffusion.conditioning import Conditioning
from worker.diffusion.losses import load_losses
from worker.engine.engine import Engine
from worker.engine.request import (
    Rendered,
    RenderRequest,
    SilentObserver,
    Snapshot,
    Suspended,
)
from worker.models.cuda_graphs import GraphedUNet
from worker.models.device import memory_of
from worker.models.memory_profile import highest
from worker.models.model import LoadedModel

_LONGEST = 300.0
_OFF_BY_ROUNDING = 0.1
"""Of what adapters change: the order of sums differs with the rows that are added to."""
_FORETOLD = (0.5, 1.4)
"""What forwards take, over what was measured of one row as the model was loaded. Less does no harm but to speed, and
the engine counts on 0.7 of what is free."""


def run(facts: Facts, subjects: Subjects) -> None:
    for kind in subjects.kinds:
        for dtype in subjects.dtypes(kind):
            name = f"{kind}, {_short(dtype)}"
            facts.attempt(name, lambda kind=kind, dtype=dtype, name=name: _tried(facts, subjects, kind, dtype, name))  # type: ignore[misc]


def _tried(facts: Facts, subjects: Subjects, kind: Kind, dtype: torch.dtype, name: str) -> None:
    model = subjects.load(kind, subjects.placement(dtype))
    assert model.memory
    facts.check(f"{name}: loads", True, bytes=model.size, bytes_of_a_row=model.memory.row)
    if announced := memory_of(subjects.placement(dtype)):
        facts.figure(f"{name}: the memory that a worker announces", **announced.model_dump())
    _memory(facts, model, subjects, name)
    if model.graphed is not None:
        facts.attempt(f"{name}: replayed", lambda: _replayed(facts, model, subjects, name))
        facts.attempt(f"{name}: replayed with adapters", lambda: _replayed_adding(facts, model, subjects, name))
    facts.attempt(f"{name}: every kind of job", lambda: _every_kind(facts, model, subjects, name))
    facts.attempt(f"{name}: resumed", lambda: _resumed(facts, model, subjects, name))


def _memory(facts: Facts, model: LoadedModel, subjects: Subjects, name: str) -> None:
    """Whether a full batch takes what one row, measured as the model was loaded, said that it would."""
    assert model.memory
    text = model.conditioned(model.prompts.encode(""))
    rows, pictures = subjects.rows, 4
    forward = highest(lambda: costing.forward(model, text, rows), model.device) / (rows * model.memory.row)
    decode = highest(lambda: costing.decode(model, pictures), model.device) / (pictures * model.memory.picture)
    least, most = _FORETOLD
    facts.check(f"{name}: a forward takes the memory foretold", least <= forward <= most, ratio=forward, rows=rows)
    facts.check(f"{name}: a decode takes the memory foretold", least <= decode <= most, ratio=decode)


@torch.no_grad()
def _replayed(facts: Facts, model: LoadedModel, subjects: Subjects, name: str) -> None:
    """Whether forwards that are replayed from graphs give what they give as they are launched."""
    text = model.conditioned(model.prompts.encode("a cat"))
    unequal = []
    for count in (1, 2, 7, subjects.rows):
        conditioning = Conditioning.stacked([text] * count)
        for _ in range(4):  # of which the first is launched, and the second captured
            rows = torch.randn((count, *model.row_shape), device=model.device)
            timesteps = 999 * torch.rand(count, device=model.device)
            one, other = (each.predict(rows, timesteps, conditioning) for each in (model, replace(model, graphed=None)))
            unequal += [count] if not torch.equal(one, other) else []
    made = isinstance(model.graphed, GraphedUNet) and model.graphed.numbers
    facts.check(
        f"{name}: forwards replayed from graphs give the same bytes",
        bool(made) and not unequal,
        unequal_of_rows=unequal,
    )


@torch.no_grad()
def _replayed_adding(facts: Facts, model: LoadedModel, subjects: Subjects, name: str) -> None:
    """The same of forwards whose rows have adapters: how far from launched ones, as a part of what adapters change."""
    jobs = [job for job in every_kind(model, subjects.steps) if job.stack]
    additions = [*(model.adapting.of(job.stack) for job in jobs), None]
    text = model.conditioned(model.prompts.encode("a cat"))
    worst, launched = 0.0, replace(model, graphed=None)
    for count in (1, 2, 6):
        for turn in (0, 1) * 3:  # the slots of one layout are filled anew each time
            given = [additions[(turn + row) % len(additions)] for row in range(count)]
            rows = torch.randn((count, *model.row_shape), device=model.device)
            timesteps = 999 * torch.rand(count, device=model.device)
            conditioning = Conditioning.stacked([text] * count)
            one, other = (each.predict(rows, timesteps, conditioning, given).float() for each in (model, launched))
            changed = (other - launched.predict(rows, timesteps, conditioning).float()).norm()
            worst = max(worst, float((one - other).norm() / changed) if changed else float((one - other).norm()))
    made = isinstance(model.graphed, GraphedUNet) and model.graphed.numbers_adding
    name = f"{name}: forwards with adapters, replayed from graphs"
    facts.check(name, bool(made) and worst <= _OFF_BY_ROUNDING, error=worst)


def _every_kind(facts: Facts, model: LoadedModel, subjects: Subjects, name: str) -> None:
    """All kinds in one engine at once."""
    jobs = every_kind(model, subjects.steps)
    noted = [_Noting() for _ in jobs]
    with engine(subjects.rows, snapshot_seconds=1e-3) as one:
        futures = {}
        for request, observer in zip(requests(model, jobs), noted, strict=True):
            observer.ask = lambda one=one, job=request.id: one.want_preview(job)  # type: ignore[misc]
            futures[request.id] = one.submit(replace(request, observer=observer))
        failed = {job: str(error) for job, future in futures.items() if (error := future.exception(_LONGEST))}
    flat = [job for job, future in futures.items() if job not in failed and not future.result().pixels.std()]
    traced = [
        job.id for job, seen in zip(jobs, noted, strict=True) if job.spec.trace.level != "none" and not seen.traced
    ]
    unseen = [job.id for job, seen in zip(jobs, noted, strict=True) if not (seen.previews and seen.snapshots)]
    facts.check(f"{name}: every kind of job is rendered", not failed, jobs=len(jobs), failed=failed)
    facts.check(f"{name}: no picture of one colour", not flat, flat=flat)
    facts.check(f"{name}: traces", not traced, without=traced)
    facts.check(f"{name}: previews and snapshots", not unseen, without=unseen)


def _resumed(facts: Facts, model: LoadedModel, subjects: Subjects, name: str) -> None:
    """A job let go of in the midst, and taken up by another engine."""
    job = workloads.job(model, "job", {"prompt": "a cat", "seed": 3, "steps": subjects.steps, "sampler": "euler_a"})
    (request,) = requests(model, [job])
    with engine(subjects.rows) as one:
        whole = one.submit(request).result(_LONGEST)
        snapshot = suspended(one, request, subjects.steps // 2)
    with engine(subjects.rows) as other:
        rest = other.submit(replace(request, resume=snapshot)).result(_LONGEST)
    facts.check(
        f"{name}: resumed as if nothing had come between", _levels(whole, rest) <= 1, levels=_levels(whole, rest)
    )


@contextmanager
def engine(rows: int, *, deterministic: bool = False, snapshot_seconds: float = 0.0) -> Iterator[Engine]:
    """A running engine."""
    one = Engine(load_losses(), max_rows=rows, deterministic=deterministic, snapshot_seconds=snapshot_seconds)
    one.start()
    try:
        yield one
    finally:
        one.stop()


def suspended(one: Engine, request: RenderRequest, step: int) -> Snapshot:
    """Where a job got to when the engine was asked, after so many steps, to let go of everything."""
    observer = _Noting()
    observer.at, observer.ask = step, one.suspend_all
    error = one.submit(replace(request, observer=observer)).exception(_LONGEST)
    assert isinstance(error, Suspended), error
    return error.snapshot


class _Noting(SilentObserver):
    """Asks once for something, after step `at`, and counts what it is told."""

    def __init__(self) -> None:
        self.at = 1
        self.ask: Callable[[], None] = lambda: None
        self.traced = self.previews = self.snapshots = 0

    def on_step(self, done: int) -> None:
        if done == self.at:
            self.ask()

    def on_trace(self, *_: object) -> None:
        self.traced += 1

    def on_snapshot(self, *_: object) -> None:
        self.snapshots += 1

    def on_preview(self, *_: object) -> None:
        self.previews += 1


def _levels(one: Rendered, other: Rendered) -> int:
    return int(np.abs(one.pixels.astype(int) - other.pixels).max())


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
