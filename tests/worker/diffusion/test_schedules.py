from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from farm.errors import FarmError, InvalidInput, ModelError
from farm.jobs.spec import SAMPLERS, SamplerName
from tests.tiny import LMS_CONFIG, PNDM_CONFIG
from worker.diffusion.schedules import read_schedule


def test_the_seed_notebooks_schedule() -> None:
    schedule = read_schedule(LMS_CONFIG, "lms", 30)
    assert schedule.timesteps[0] == 999
    assert schedule.sigma[0] == pytest.approx(14.6146, abs=1e-4)
    assert schedule.init_scale == pytest.approx(14.6146, abs=1e-4)
    assert schedule.sigma_next[-1] == 0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_falls_to_the_end(sampler: SamplerName) -> None:
    schedule = read_schedule(PNDM_CONFIG, sampler, 25)
    assert schedule.steps == 25
    assert np.all(schedule.sigma_next / schedule.alpha_next < schedule.sigma / schedule.alpha)
    assert np.all(np.diff(schedule.sigma_ve) < 0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sigma_ve_is_finite_at_zero_terminal_snr(sampler: SamplerName) -> None:
    config = {
        **LMS_CONFIG,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    assert np.isfinite(read_schedule(config, sampler, 10).sigma_ve).all()


REFUSED: list[tuple[dict[str, Any], SamplerName, int, type[FarmError], str]] = [
    ({"prediction_type": "sample"}, "lms", 10, ModelError, "the model predicts 'sample'"),
    ({"prediction_type": "flow_prediction"}, "dpmpp_2m", 10, ModelError, "the model predicts 'flow_prediction'"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "euler", 10, ModelError, "trained by flow matching"),
    ({"use_flow_sigmas": True}, "dpmpp_2m", 10, ModelError, "trained by flow matching"),
    ({"beta_schedule": "cubic"}, "lms", 10, ModelError, "makes no schedule for 'lms'"),
    ({"beta_end": "big"}, "lms", 10, ModelError, "makes no schedule for 'lms'"),
    ({"timestep_spacing": "random"}, "ddim", 10, ModelError, "makes no schedule for 'ddim'"),
    (
        {"use_karras_sigmas": True, "use_exponential_sigmas": True},
        "euler",
        10,
        ModelError,
        "makes no schedule for 'euler'",
    ),
    (
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        "ddim",
        10,
        ModelError,
        "predicts ε from pure noise",
    ),
    ({}, "lms", 0, InvalidInput, "steps: 0 is not between 1 and the 1000 steps that the model was trained on"),
    ({}, "ddim", 1001, InvalidInput, "steps: 1001 is not between 1 and the 1000 steps that the model was trained on"),
    ({}, "dpmpp_2m", 1000, InvalidInput, "'dpmpp_2m' does not have 1000 distinct noise levels"),
    ({}, "ddim", 1000, InvalidInput, "'ddim' does not have 1000 distinct noise levels"),
]


@pytest.mark.parametrize(("change", "sampler", "steps", "error", "message"), REFUSED)
def test_what_makes_no_schedule_is_refused(
    change: dict[str, Any], sampler: SamplerName, steps: int, error: type[FarmError], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_schedule({**LMS_CONFIG, **change}, sampler, steps)
