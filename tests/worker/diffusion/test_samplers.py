"""What the samplers' records say is what the farm does, and a record is all that a sampler needs."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from diffusers import EulerDiscreteScheduler

from farm.jobs.spec import SAMPLERS, SamplerName
from tests.tiny import LMS_CONFIG
from worker.diffusion import samplers, schedules
from worker.diffusion.levels import exploding
from worker.diffusion.samplers import Sampler
from worker.diffusion.solvers import HISTORY, Combination, Schedule, plan

DOCS = Path(__file__).parents[3] / "deploy" / "docs"


def test_every_sampler_that_can_be_asked_for_has_a_record_and_no_other() -> None:
    assert tuple(samplers.BY_NAME) == SAMPLERS


def test_a1111s_names_are_its_own() -> None:
    assert {name: sampler.title for name, sampler in samplers.BY_NAME.items()} == {
        "lms": "LMS",
        "euler": "Euler",
        "euler_a": "Euler a",
        "ddim": "DDIM",
        "dpmpp_2m": "DPM++ 2M",
    }


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_remembers_and_draws_what_its_record_says(sampler: SamplerName) -> None:
    record = samplers.BY_NAME[sampler]
    steps = plan(schedules.read_schedule(LMS_CONFIG, sampler, 12))

    assert record.history <= HISTORY
    assert np.flatnonzero(steps.b.any(axis=0)).max() == record.history
    assert bool(steps.noise.any()) is record.draws_noise


@pytest.mark.parametrize("page", ["index.md", "python.md"])
def test_the_pages_name_every_sampler(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert [name for name in SAMPLERS if f"`{name}`" not in text] == []


def test_a_sampler_is_added_by_an_entry_and_its_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    def half_of_euler(schedule: Schedule, _start: int) -> Combination:
        b = np.zeros((schedule.steps, 1 + HISTORY))
        b[:, 0] = (schedule.sigma_next - schedule.sigma) / 2
        return Combination("epsilon", np.ones(schedule.steps), b, np.zeros(schedule.steps))

    name = cast(SamplerName, "halfway")
    record = Sampler(name, "Halfway", EulerDiscreteScheduler, exploding, half_of_euler)
    monkeypatch.setitem(cast(dict[SamplerName, Sampler], samplers.BY_NAME), name, record)

    euler, half = (plan(schedules.read_schedule(LMS_CONFIG, asked, 7)) for asked in (samplers.EULER.name, name))

    np.testing.assert_array_equal(half.timestep, euler.timestep)
    np.testing.assert_array_equal(half.b, euler.b / 2)
