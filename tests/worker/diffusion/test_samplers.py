"""What the samplers' records say is what the farm does, and a record is all that a sampler needs."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from diffusers import EulerDiscreteScheduler

from farm.errors import InvalidInput
from farm.jobs.samplers import KNOWN, SAMPLERS, SCHEDULES, Known, SamplerName
from tests.tiny import LMS_CONFIG
from worker.diffusion import samplers, schedules
from worker.diffusion.levels import exploding
from worker.diffusion.plans import plan
from worker.diffusion.samplers import Sampler
from worker.diffusion.steps import HISTORY, Combination, Schedule

DOCS = Path(__file__).parents[3] / "deploy" / "docs"


def test_every_sampler_that_can_be_asked_for_has_a_record_and_no_other() -> None:
    assert tuple(samplers.BY_NAME) == tuple(KNOWN) == SAMPLERS


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_remembers_and_draws_what_its_record_says(sampler: SamplerName) -> None:
    record, known = samplers.BY_NAME[sampler], KNOWN[sampler]
    steps = plan(schedules.read_schedule(LMS_CONFIG, sampler, 12))

    assert record.history <= HISTORY
    assert np.flatnonzero(steps.b.any(axis=0)).max() == record.history
    assert bool(steps.noise.any()) is record.draws_noise
    assert record.draws_noise is (known.eta > 0)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if KNOWN[name].takes_eta])
def test_eta_says_how_much_noise_is_added(sampler: SamplerName) -> None:
    none, half, all_of_it = (
        plan(schedules.read_schedule(LMS_CONFIG, sampler, 12, eta=eta)).noise for eta in (0.0, 0.5, 1.0)
    )
    assert not none.any()
    noisy = all_of_it > 0
    assert np.all(half[noisy] > 0) and np.all(half[noisy] < all_of_it[noisy])


@pytest.mark.long
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_schedule_that_a_sampler_is_said_to_follow_it_follows(sampler: SamplerName) -> None:
    for spacing in KNOWN[sampler].schedules:
        schedule = schedules.read_schedule(LMS_CONFIG, sampler, 9, spacing=spacing)
        assert spacing in ("model", schedule.spacing)
        assert schedule.steps == plan(schedule).steps == 9


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_schedule_that_it_does_not_follow_is_refused(sampler: SamplerName) -> None:
    for spacing in set(SCHEDULES) - set(KNOWN[sampler].schedules):
        with pytest.raises(InvalidInput, match=f"'{sampler}' does not follow the schedule '{spacing}'"):
            schedules.read_schedule(LMS_CONFIG, sampler, 9, spacing=spacing)


@pytest.mark.parametrize("sampler", ["lms", "heun", "dpm2_a", "dpmpp_2m", "unipc"])
def test_a_uniform_schedule_ends_a_step_before_the_models_least_noise(sampler: SamplerName) -> None:
    schedule = schedules.read_schedule(LMS_CONFIG, sampler, 4, spacing="sgm_uniform")
    np.testing.assert_allclose(schedule.timesteps, [999, 749.25, 499.5, 249.75], atol=0.5)
    assert schedule.sigma_next[-1] == 0


def test_the_page_says_of_every_sampler_what_is_so() -> None:
    text = (DOCS / "samplers.md").read_text(encoding="utf-8")
    rows = {cells[1].strip("` "): cells for line in text.splitlines() if (cells := line.split("|"))[1:2]}
    for name, known in KNOWN.items():
        _, _, title, aliases, step, _, follows, *_ = (cell.strip() for cell in rows[name])
        steps = plan(schedules.read_schedule(LMS_CONFIG, name, 3))
        assert title == known.title
        assert {alias.strip("` ") for alias in aliases.split(",") if alias} <= set(known.aliases)
        assert ("two evaluations" in step) is (steps.evaluations == (2, 2, 1))
        assert follows.startswith("any") or follows == ", ".join(f"`{one}`" for one in known.schedules)
    assert [name for name in SCHEDULES if f"| `{name}` |" not in text] == []


def test_a_sampler_is_added_by_an_entry_and_its_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    def half_of_euler(schedule: Schedule, _start: int) -> Combination:
        b = np.zeros((schedule.steps, 1 + HISTORY))
        b[:, 0] = (schedule.sigma_next - schedule.sigma) / 2
        return Combination("epsilon", np.ones(schedule.steps), b, np.zeros(schedule.steps))

    name = cast(SamplerName, "halfway")
    record = Sampler(name, EulerDiscreteScheduler, exploding, half_of_euler)
    monkeypatch.setitem(cast(dict[SamplerName, Sampler], samplers.BY_NAME), name, record)
    monkeypatch.setitem(cast(dict[SamplerName, Known], KNOWN), name, Known(name, "Halfway"))

    euler, half = (plan(schedules.read_schedule(LMS_CONFIG, asked, 7)) for asked in (samplers.EULER.name, name))

    np.testing.assert_array_equal(half.timestep, euler.timestep)
    np.testing.assert_array_equal(half.b, euler.b / 2)
