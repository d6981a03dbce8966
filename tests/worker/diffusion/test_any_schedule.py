"""Whatever a scheduler's configuration says, a job follows it as diffusers does, or is refused as the model's fault."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from farm.errors import InvalidInput, ModelError
from farm.jobs.samplers import SAMPLERS, SamplerName
from tests.fuzzing import fuzz
from tests.tiny import LMS_CONFIG
from tests.worker.diffusion.loop import scheduler_for
from tests.worker.diffusion.test_solvers import by_diffusers as stepped
from tests.worker.diffusion.test_solvers import run
from worker.diffusion import samplers
from worker.diffusion.plans import plan
from worker.diffusion.schedules import read_schedule, unusable
from worker.diffusion.steps import Floats

Config = dict[str, Any]

_SAID: dict[str, st.SearchStrategy[Any]] = {
    "beta_schedule": st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
    "beta_start": st.floats(1e-5, 1e-2),
    "beta_end": st.floats(1e-2, 0.05),
    "trained_betas": st.sampled_from(
        [None, [0.001 * (k + 1) for k in range(100)], np.linspace(1e-4, 0.02, 1000).tolist()]
    ),
    "num_train_timesteps": st.sampled_from([1000, 100, 30]),
    "timestep_spacing": st.sampled_from(["linspace", "leading", "trailing"]),
    "steps_offset": st.integers(0, 3),
    "interpolation_type": st.sampled_from(["linear", "log_linear"]),
    "use_karras_sigmas": st.booleans(),
    "use_exponential_sigmas": st.booleans(),
    "use_beta_sigmas": st.booleans(),
    "use_lu_lambdas": st.booleans(),
    "final_sigmas_type": st.sampled_from(["zero", "sigma_min"]),
    "sigma_min": st.none() | st.floats(0.01, 0.5),
    "sigma_max": st.none() | st.floats(1.0, 30.0),
    "prediction_type": st.sampled_from(["epsilon", "v_prediction", "sample"]),
    "timestep_type": st.sampled_from(["discrete", "continuous"]),
    "rescale_betas_zero_snr": st.booleans(),
    "set_alpha_to_one": st.booleans(),
    "solver_order": st.integers(1, 3),
    "lower_order_final": st.booleans(),
    "euler_at_final": st.booleans(),
    "lambda_min_clipped": st.sampled_from([float("-inf"), -5.1]),
    "thresholding": st.booleans(),
    "clip_sample": st.booleans(),
    "variance_type": st.sampled_from([None, "fixed_small", "learned", "learned_range"]),
    "algorithm_type": st.sampled_from(["dpmsolver", "dpmsolver++", "sde-dpmsolver++"]),
}
_RUBBISH: st.SearchStrategy[Any] = st.sampled_from(
    [None, "x", "", -1, 0, 10**30, 1e300, float("nan"), float("inf"), True, [], [1, "x"], {}, {"a": 1}, [[0.1]]]
)

_RARE = (
    "thresholding",
    "variance_type",
    "prediction_type",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
)
_COMMON = {key: value for key, value in _SAID.items() if key not in _RARE}

said = st.one_of(
    st.fixed_dictionaries({}, optional=_COMMON),
    st.tuples(st.fixed_dictionaries({}, optional=_COMMON), st.sampled_from(_RARE)).flatmap(
        lambda drawn: st.fixed_dictionaries({**{k: st.just(v) for k, v in drawn[0].items()}, drawn[1]: _SAID[drawn[1]]})
    ),
)
rubbish: st.SearchStrategy[Config] = st.dictionaries(
    st.sampled_from([*(key for key in _SAID if key != "num_train_timesteps"), "_class_name", "_use_default_values"]),
    _RUBBISH,
    min_size=1,
    max_size=3,
)


NOISELESS = [sampler.name for sampler in samplers.BY_NAME.values() if not sampler.draws_noise]


def by_diffusers(config: Config, sampler: SamplerName, steps: int) -> tuple[Floats, Floats, Floats]:
    """What diffusers' own scheduler makes of noise, given what the model says at each step: noise, that, and this."""
    scheduler = scheduler_for(config, sampler, **samplers.BY_NAME[sampler].settings)
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):  # by its timestep it takes the second of equal ones for the first step
        scheduler.set_begin_index(0)
    outputs = np.random.default_rng(0).standard_normal((len(scheduler.timesteps), 1, 16))
    x = outputs[0] * float(scheduler.init_noise_sigma)
    end, _ = stepped(scheduler, scheduler.timesteps, x, outputs, np.empty(0))
    return x, outputs, end


def may_refuse(config: Config, sampler: SamplerName, steps: int) -> bool:
    """Whether diffusers does what no linear sampler does, or itself makes no picture of it."""
    if config.get("prediction_type") == "sample":
        return True
    if len(config.get("trained_betas") or []) not in (0, config["num_train_timesteps"]):
        return True
    if any(config.get(key) in values for key, values in samplers.BY_NAME[sampler].refused.items()):
        return True
    try:
        _, _, made = by_diffusers(config, sampler, steps)
    except Exception:
        return True
    return not np.isfinite(made).all()


@pytest.mark.long
@fuzz(60)
@given(said, st.sampled_from(NOISELESS), st.sampled_from([1, 2, 7, 20]))
@example({"interpolation_type": "log_linear"}, "euler", 20)
@example({"interpolation_type": "log_linear", "use_karras_sigmas": True}, "euler", 7)
@example({"prediction_type": "v_prediction", "timestep_type": "continuous"}, "euler", 7)
def test_a_configuration_is_followed_as_diffusers_does(change: Config, sampler: SamplerName, steps: int) -> None:
    config = {**LMS_CONFIG, **change}
    try:
        schedule = read_schedule(config, sampler, steps)
    except InvalidInput:
        return
    except ModelError:
        assert may_refuse(config, sampler, steps)
        return
    x, outputs, expected = by_diffusers(config, sampler, steps)
    own = run(plan(schedule), x, outputs)
    # Float32 rounds what a division by little signal then magnifies.
    largest = max(1.0, float(np.abs(expected).max()), schedule.init_scale, schedule.sigma_ve[0] / 100)
    np.testing.assert_allclose(own, expected, atol=1e-4 * largest)


@pytest.mark.long
@fuzz(60)
@given(rubbish, st.sampled_from(SAMPLERS), st.sampled_from([1, 2, 20]))
@example({"beta_start": "x"}, "lms", 2)
@example({"trained_betas": [[0.1]]}, "ddim", 2)
@example({"steps_offset": 10**30}, "euler", 2)
@example({"_use_default_values": 0}, "ddim", 1)
def test_rubbish_is_refused_as_the_models_fault(change: Config, sampler: SamplerName, steps: int) -> None:
    with contextlib.suppress(ModelError, InvalidInput):
        assert np.isfinite(plan(read_schedule({**LMS_CONFIG, **change}, sampler, steps)).table).all()
    assert set(unusable({**LMS_CONFIG, **change})) <= set(SAMPLERS)


def test_only_the_samplers_that_cannot_follow_are_named() -> None:
    assert unusable(LMS_CONFIG) == {}
    assert set(unusable({**LMS_CONFIG, "num_train_timesteps": 10})) == {"lcm"}  # which is distilled from 50 steps
    thresholded = ("ddim", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "unipc", "deis", "ddpm", "lcm")
    assert set(unusable({**LMS_CONFIG, "thresholding": True})) == set(thresholded)
    assert set(unusable({**LMS_CONFIG, "interpolation_type": "cubic"})) == {"euler"}
    assert set(unusable({**LMS_CONFIG, "prediction_type": "sample"})) == set(SAMPLERS)
