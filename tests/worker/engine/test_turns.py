"""Small pictures beside enormous ones: the time is shared, and nobody waits for the end of a long step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from tests.waiting import eventually
from tests.worker.engine.test_engine import with_unet
from worker.diffusion.losses import load_losses
from worker.engine.engine import Engine
from worker.engine.request import Cancelled, RenderRequest, SilentObserver, resolve
from worker.models.model import LoadedModel

LARGE = {"width": 528, "height": 512, "steps": 1_000, "guidance": 1.0}
"""Just beyond what takes moderate time on anything."""
ENOUGH = 60.0


class Counting(SilentObserver):
    """Knows how many steps its job has done."""

    def __init__(self) -> None:
        self.steps = 0
        self.begun = threading.Event()

    def on_step(self, done: int) -> None:
        self.steps = done
        self.begun.set()


def is_large(rows: torch.Tensor) -> bool:
    return rows.shape[-1] > 64


@pytest.mark.long
def test_small_jobs_do_not_wait_for_as_many_steps_of_a_large_one(
    engines: Callable[..., Engine], request_for: Callable[..., RenderRequest]
) -> None:
    engine, watcher = engines(max_rows=8), Counting()
    large = engine.submit(request_for("large", observer=watcher, **{**LARGE, "width": 640, "height": 640}))
    assert watcher.begun.wait(ENOUGH)

    before = watcher.steps
    engine.submit(request_for("small", steps=20)).result(ENOUGH)
    meanwhile = watcher.steps - before

    assert not large.done()
    assert meanwhile < 10, "turns by count would have been twenty"


@pytest.mark.long
def test_a_short_step_is_taken_in_the_midst_of_a_long_one(
    engines: Callable[..., Engine], request_for: Callable[..., RenderRequest], model: LoadedModel
) -> None:
    """The large job's step does not end before the small job is done, so that one must come in between."""
    small_is_done, in_midst = threading.Event(), threading.Event()

    def call(rows: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        while is_large(rows) and not small_is_done.is_set():
            in_midst.set()
            torch.zeros(1)
        return model.unet(rows, *arguments, **keywords)

    engine, patient = engines(max_rows=32), with_unet(model, call)
    large = engine.submit(replace(request_for("large", **{**LARGE, "steps": 1}), model=patient))
    assert in_midst.wait(ENOUGH)
    others = [engine.submit(replace(request_for(f"small {n}", steps=4), model=patient)) for n in range(6)]
    small = others[-1]  # more than are decoded together
    small.add_done_callback(lambda _: small_is_done.set())

    alone = engines(max_rows=8).submit(request_for("small", steps=4)).result(ENOUGH)
    assert abs(small.result(ENOUGH).pixels.astype(int) - alone.pixels).max() <= 1
    assert large.result(ENOUGH).pixels.shape == (512, 528, 3)


@pytest.mark.long
@pytest.mark.parametrize("priorities", [(9, 5), (5, 9)])
def test_only_the_more_urgent_cut_in(
    engines: Callable[..., Engine],
    request_for: Callable[..., RenderRequest],
    model: LoadedModel,
    priorities: tuple[int, int],
) -> None:
    of_large, of_small = priorities
    in_midst, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def call(rows: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        while is_large(rows) and not go_on.is_set() and not order:
            in_midst.set()
            torch.zeros(1)
        return model.unet(rows, *arguments, **keywords)

    engine, patient = engines(max_rows=8), with_unet(model, call)
    large = engine.submit(replace(request_for("large", priority=of_large, **{**LARGE, "steps": 1}), model=patient))
    assert in_midst.wait(ENOUGH)
    small = engine.submit(replace(request_for("small", priority=of_small, steps=4), model=patient))
    small.add_done_callback(lambda _: order.append("small"))
    large.add_done_callback(lambda _: order.append("large"))
    if of_large > of_small:
        go_on.set()
    small.result(ENOUGH), large.result(ENOUGH)

    assert order == (["large", "small"] if of_large > of_small else ["small", "large"])


@pytest.mark.long
def test_a_long_step_that_nobody_wants_any_more_ends_at_once(
    engines: Callable[..., Engine], request_for: Callable[..., RenderRequest], model: LoadedModel
) -> None:
    in_midst = threading.Event()

    def call(rows: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        while is_large(rows):
            in_midst.set()
            torch.zeros(1)
        return model.unet(rows, *arguments, **keywords)

    engine, endless = engines(max_rows=8), with_unet(model, call)
    large = engine.submit(replace(request_for("large", **LARGE), model=endless))
    assert in_midst.wait(ENOUGH)
    engine.cancel("large")

    with pytest.raises(Cancelled):
        large.result(ENOUGH)
    assert engine.submit(request_for("next", steps=2)).result(ENOUGH).pixels.shape == (64, 64, 3)


def has_begun(engine: Engine, seen: float) -> bool:
    """Whether the engine began something since it had been busy for `seen` seconds."""
    return engine.busy_for() < seen


@pytest.mark.long
def test_a_long_step_is_told_from_one_that_hangs(
    engines: Callable[..., Engine], request_for: Callable[..., RenderRequest], model: LoadedModel
) -> None:
    """Again and again the engine has just begun something, and all of it is one step."""
    in_midst, enough = threading.Event(), threading.Event()

    def call(rows: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        while is_large(rows) and not enough.is_set():
            in_midst.set()
            torch.zeros(1)
        return model.unet(rows, *arguments, **keywords)

    engine = engines(max_rows=8)
    large = engine.submit(replace(request_for("large", **{**LARGE, "steps": 1}), model=with_unet(model, call)))
    assert in_midst.wait(ENOUGH)
    for _ in range(3):
        eventually(lambda: engine.busy_for() > 0.001, "it is busy")
        seen = engine.busy_for()
        eventually(partial(has_begun, engine, seen), "it has begun something since")
    enough.set()
    large.result(ENOUGH)


@pytest.mark.long
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_large_picture_in_company_is_the_one_made_alone(
    engines: Callable[..., Engine], request_for: Callable[..., RenderRequest], deterministic: bool
) -> None:
    def large() -> RenderRequest:
        return request_for("large", **{**LARGE, "steps": 1}, seed=4)

    alone = engines(max_rows=2, deterministic=deterministic).submit(large()).result(ENOUGH)
    engine = engines(max_rows=2, deterministic=deterministic)
    company = [engine.submit(request_for(f"small {n}", steps=4, seed=n)) for n in range(3)]
    together = engine.submit(large()).result(ENOUGH)
    for future in company:
        future.result(ENOUGH)

    assert (alone.pixels == together.pixels).all()


def test_the_resolved_size_decides_what_is_large(model: LoadedModel, request_for: Callable[..., RenderRequest]) -> None:
    assert not model.is_large(model.latent_shape)
    assert not model.is_large((4, 64, 64))
    assert model.is_large((4, 64, 72))
    spec = resolve(request_for("x").spec, model, load_losses())
    assert spec.width == 64
