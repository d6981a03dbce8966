"""Steps that evaluate the model twice: to whoever looks on they are steps like others, and end as the plan says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from farm.jobs.samplers import SAMPLERS, SamplerName
from tests.worker.diffusion.loop import Job, render
from worker.diffusion.losses import load_losses
from worker.diffusion.schedules import read_schedule
from worker.engine.engine import Engine
from worker.engine.preparing import prepare
from worker.engine.request import Pixels, RenderRequest, SilentObserver, StepRecord
from worker.engine.request_state import RequestState
from worker.engine.rows import run_step
from worker.models.model import LoadedModel

Make = Callable[..., RenderRequest]
TWICE: tuple[SamplerName, ...] = ("heun", "dpm2", "dpm2_a", "dpmpp_sde")


class Hearing(SilentObserver):
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.records: list[StepRecord] = []
        self.losses: list[dict[str, float]] = []
        self.previews: list[int] = []

    def on_step(self, done: int) -> None:
        self.steps.append(done)

    def on_losses(self, values: Mapping[str, float]) -> None:
        self.losses.append(dict(values))

    def on_trace(self, record: StepRecord, _: Pixels | None) -> None:
        self.records.append(record)

    def on_preview(self, done: int, _: Pixels) -> None:
        self.previews.append(done)


def boarded(request: RenderRequest) -> RequestState:
    return prepare(request, load_losses(), 0, Future())


def advance(state: RequestState) -> bool:
    """One evaluation. Returns whether it ended a step."""
    step = run_step([state], padded_rows=None, gradient_chunk=1)
    return state.commit(step.x[0], step.history[0], step.x0[0], step.losses[0])


def ended(state: RequestState) -> Tensor:
    while not state.is_done:
        advance(state)
    return state.x


@pytest.mark.long
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_engines_steps_are_those_of_the_plan(model: LoadedModel, request_for: Make, sampler: SamplerName) -> None:
    request = request_for("job", sampler=sampler, steps=5, seed=3, guidance=2.0, prompt="a cat in the apple")
    expected = render(model, Job(sampler, steps=5, seed=3, guidance=2.0))[0]
    assert torch.allclose(ended(boarded(request)), expected, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("sampler", [*TWICE, "pndm"])
def test_observers_hear_of_each_step_once(
    engines: Callable[..., Engine], request_for: Make, model: LoadedModel, sampler: SamplerName
) -> None:
    hearing = Hearing()
    losses = [{"name": "blue", "scale": 5, "every": 2}]
    request = request_for(
        "job", sampler=sampler, steps=6, from_image=True, start_step=1, trace="numbers", losses=losses, observer=hearing
    )

    report = engines().submit(request).result(60).report

    assert hearing.steps == [1, 2, 3, 4, 5]
    assert [record.step for record in hearing.records] == [1, 2, 3, 4, 5]
    schedule = read_schedule(model.scheduler_config, sampler, 6)
    assert [record.sigma for record in hearing.records] == pytest.approx(schedule.sigma_ve[1:].tolist())
    assert [record.timestep for record in hearing.records] == pytest.approx(schedule.timesteps[1:].tolist())
    for one, following in pairwise(hearing.records):
        assert following.norms["x"] == pytest.approx(one.norms["x_next"])
    assert [step for step, _ in report.losses["blue"]] == [2, 4]
    assert [list(record.losses) for record in hearing.records] == [[], ["blue"], [], ["blue"], []]
    assert hearing.losses == [{"blue": value} for _, value in report.losses["blue"]]


def test_every_other_step_is_traced_where_that_is_asked(engines: Callable[..., Engine], request_for: Make) -> None:
    hearing = Hearing()
    request = request_for("job", sampler="heun", steps=6, trace="numbers", trace_every=2, observer=hearing)
    engines().submit(request).result(60)
    assert [record.step for record in hearing.records] == [0, 2, 4, 5]


def test_a_preview_is_of_a_whole_step(engines: Callable[..., Engine], request_for: Make) -> None:
    engine, hearing = engines(), Hearing()

    def look(done: int) -> None:
        hearing.steps.append(done)
        if done == 2:
            engine.want_preview("job")

    hearing.on_step = look  # type: ignore[method-assign]
    engine.submit(request_for("job", sampler="heun", steps=6, observer=hearing)).result(60)
    assert len(hearing.previews) == 1
    assert hearing.previews[0] > 2


@pytest.mark.long
@pytest.mark.parametrize(("sampler", "step"), [*((sampler, 2) for sampler in TWICE), ("dpmpp_sde", 0), ("pndm", 0)])
def test_a_job_let_go_in_the_midst_of_a_step_begins_it_again(
    request_for: Make, sampler: SamplerName, step: int
) -> None:
    fields: dict[str, Any] = {"sampler": sampler, "steps": 5, "losses": [{"name": "blue", "scale": 5, "every": 1}]}
    request = request_for("job", **fields)
    state = boarded(request)
    while state.position < step:
        advance(state)
    assert not advance(state)
    assert (state.position, state.step, state.advanced_step) == (step, step, step)

    snapshot = state.snapshot()

    whole = ended(state)
    assert snapshot.position == step
    assert len(snapshot.losses.get("blue", [])) == step
    again = boarded(replace(request, resume=snapshot) if step else request)
    if not step:
        assert torch.equal(snapshot.x, again.x.cpu())
        assert snapshot.noise == again.noise.state
    assert torch.equal(ended(again), whole)
    assert again.losses == state.losses


def test_noise_that_was_drawn_for_a_step_still_to_be_done_is_drawn_again(request_for: Make) -> None:
    """A step may fail after its noise was drawn, for want of memory, and the job be let go before it is tried again."""
    request = request_for("job", sampler="euler_a", steps=4)
    state = boarded(request)
    advance(state)
    state.fresh_noise()

    snapshot = state.snapshot()

    assert torch.equal(ended(boarded(replace(request, resume=snapshot))), ended(state))
