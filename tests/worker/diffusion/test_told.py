"""The numbers that are told of a schedule are the document's, and those that jobs step by."""

from __future__ import annotations

import json

import numpy as np
import pytest

from farm.errors import InvalidInput
from farm.jobs.samplers import SAMPLERS, SamplerName
from farm.jobs.schedule import ScheduleTold
from tests.tiny import LMS_CONFIG
from worker.diffusion.plans import Coefficient, plan
from worker.diffusion.schedules import read_schedule
from worker.diffusion.told import schedule_told
from worker.models.schedules import SD_1_4


def test_the_documents_schedule() -> None:
    """15 steps of LMS of Stable Diffusion 1.4, as the method's notebook prints them."""
    told = schedule_told(SD_1_4, "lms", 15)

    assert told.levels[0].sigma == pytest.approx(14.6146, abs=5e-5)
    assert told.init_scale == pytest.approx(14.6146, abs=5e-5)
    assert [level.sigma for level in told.levels[1:4]] == pytest.approx([9.6826, 6.6780, 4.7746], abs=5e-5)
    assert told.levels[-1].sigma_next == 0
    assert [level.timestep for level in told.levels[:2]] == pytest.approx([999, 927.6429], abs=1e-4)
    assert told.levels[0].alpha == pytest.approx(0.0047**0.5, rel=0.01)  # √ᾱ of the last training timestep


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_evaluations_are_the_rows_of_the_plan(sampler: SamplerName) -> None:
    told = schedule_told(LMS_CONFIG, sampler, 6, start_step=2)

    steps = plan(read_schedule(LMS_CONFIG, sampler, 6), 2)
    rows = [[one.coefficients[name.name.lower()] for name in Coefficient] for one in told.evaluations]
    np.testing.assert_array_equal(np.array(rows, dtype=np.float32), steps.table)
    assert [one.step for one in told.evaluations if one.evaluation == 1] == [2, 3, 4, 5]
    assert len(told.levels) == told.steps == 6
    assert ScheduleTold.model_validate_json(json.dumps(told.model_dump(mode="json"))) == told


def test_what_was_asked_and_what_it_came_to_are_told() -> None:
    told = schedule_told(LMS_CONFIG, "dpmpp_2m_sde", 6, schedule="karras", eta=0.5)
    assert (told.schedule, told.spacing, told.eta, told.prediction) == ("karras", "karras", 0.5, "epsilon")


def test_a_start_beyond_the_end_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"start\.step: 6 is not a step from 0 to 5"):
        schedule_told(LMS_CONFIG, "lms", 6, start_step=6)
