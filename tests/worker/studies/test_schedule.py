from __future__ import annotations

import json
from typing import Any

import pytest
from diffusers import EulerDiscreteScheduler

from farm.errors import InvalidInput
from tests.worker.studies.conftest import Ask
from worker.models.model import LoadedModel


def test_a_schedule_is_diffusers_own(ask: Ask, model: LoadedModel) -> None:
    scheduler: Any = EulerDiscreteScheduler.from_config(dict(model.scheduler_config))
    scheduler.set_timesteps(15)

    value = json.loads(ask(mode="schedule", sampler="euler", steps=15).answer.model_dump_json())["value"]

    levels = value["levels"]
    assert [level["timestep"] for level in levels] == pytest.approx(scheduler.timesteps.tolist())
    assert [level["sigma"] for level in levels] == pytest.approx(scheduler.sigmas[:-1].tolist(), rel=1e-5)
    assert len(value["evaluations"]) == 15
    assert (value["sampler"], value["prediction"], value["spacing"]) == ("euler", "epsilon", "linspace")


def test_a_schedule_of_ones_own_is_told(ask: Ask) -> None:
    value = ask(mode="schedule", sampler="DPM++ 2M Karras", steps=9).answer.value
    assert (value.sampler, value.schedule, value.spacing) == ("dpmpp_2m", "karras", "karras")


def test_more_steps_than_there_are_levels_are_refused(ask: Ask) -> None:
    with pytest.raises(InvalidInput, match="does not have 1000 distinct noise levels"):
        ask(mode="schedule", sampler="ddim", steps=1_000)
