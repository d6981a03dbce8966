"""The coefficients themselves: against diffusers' `step` on arbitrary outputs, quadrature, and exact solutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from scipy.integrate import quad

from farm.errors import InvalidInput
from farm.jobs.spec import SAMPLERS, SamplerName
from tests.tiny import LMS_CONFIG, PNDM_CONFIG
from tests.worker.diffusion.loop import SCHEDULERS
from worker.diffusion import samplers
from worker.diffusion.schedules import read_schedule
from worker.diffusion.solvers import HISTORY, Coefficient, Floats, SamplingPlan, lagrange_integrals, plan

QUIET = [sampler.name for sampler in samplers.BY_NAME.values() if not sampler.draws_noise]

CONFIGS: dict[str, dict[str, Any]] = {
    "lms": LMS_CONFIG,
    "pndm": PNDM_CONFIG,
    "karras": {**LMS_CONFIG, "use_karras_sigmas": True},
    "exponential": {**LMS_CONFIG, "use_exponential_sigmas": True},
    "leading": {**LMS_CONFIG, "timestep_spacing": "leading"},
    "trailing": {**LMS_CONFIG, "timestep_spacing": "trailing"},
    "linspace": {**LMS_CONFIG, "timestep_spacing": "linspace"},
    "sigma_min": {**LMS_CONFIG, "final_sigmas_type": "sigma_min", "set_alpha_to_one": False},
    "v": {**LMS_CONFIG, "prediction_type": "v_prediction"},
    "zero terminal SNR": {
        **LMS_CONFIG,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
}


def run(steps: SamplingPlan, x: Floats, outputs: Floats) -> Floats:
    """x after all steps, given what the model says at each."""
    history = [np.zeros_like(x)] * HISTORY
    for k, out in enumerate(outputs):
        h = steps.h_x[k] * x + steps.h_out[k] * out
        x = steps.a[k] * x + steps.b[k] @ np.stack([h, *history])
        history = [h, *history[:-1]]
    return x


@pytest.mark.parametrize("count", [1, 2, 5, 14, 15, 40])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("sampler", QUIET)
def test_steps_equal_those_of_diffusers(sampler: SamplerName, config: str, count: int) -> None:
    scheduler_class, overrides = SCHEDULERS[sampler]
    scheduler = scheduler_class.from_config(CONFIGS[config], **overrides)
    if sampler == "lms":  # of itself it ignores that the signal ends at zero
        scheduler.alphas_cumprod = EulerDiscreteScheduler.from_config(CONFIGS[config]).alphas_cumprod
    scheduler.set_timesteps(count)
    steps = plan(read_schedule(CONFIGS[config], sampler, count))
    outputs = np.random.default_rng(0).standard_normal((count, 16))
    x = torch.from_numpy(outputs[0] * float(scheduler.init_noise_sigma))
    expected = x.clone()
    for timestep, out in zip(scheduler.timesteps, outputs, strict=True):
        scheduler.scale_model_input(expected, timestep)
        expected = scheduler.step(torch.from_numpy(out), timestep, expected.double()).prev_sample
    largest = max(1.0, float(expected.abs().max()))
    np.testing.assert_allclose(run(steps, x.numpy(), outputs), expected, atol=1e-5 * largest)


@pytest.mark.parametrize("start", [0, 12, 45, 49])
def test_lms_from_mid_schedule_equals_adams_bashforth_by_quadrature(start: int) -> None:
    steps = plan(read_schedule(LMS_CONFIG, "lms", 50), start)
    sigmas = np.append(read_schedule(LMS_CONFIG, "lms", 50).sigma, 0.0)
    derivatives = np.random.default_rng(start).standard_normal((50 - start, 3))
    x = expected = derivatives[0] * sigmas[start]
    for k in range(50 - start):
        order = min(k + 1, 4)
        i = start + k
        for j in range(order):
            others = [sigmas[i - m] for m in range(order) if m != j]

            def lagrange(tau: float, node: float = sigmas[i - j], others: list[float] = others) -> float:
                return float(np.prod([(tau - other) / (node - other) for other in others]))

            integral, _ = quad(lagrange, sigmas[i], sigmas[i + 1], epsabs=1e-12)
            expected = expected + integral * derivatives[k - j]
    np.testing.assert_allclose(run(steps, x, derivatives), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", QUIET)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("start", [0, 30, 45])
def test_a_perfect_denoiser_of_one_picture_is_solved_exactly(sampler: SamplerName, prediction: str, start: int) -> None:
    """ε is constant along the path to a single picture, so every order solves it without error."""
    config = {**LMS_CONFIG, "prediction_type": prediction}
    schedule = read_schedule(config, sampler, 50)
    picture, noise = np.array([0.3, -1.2]), np.array([0.7, 0.1])
    norm = np.hypot(schedule.alpha, schedule.sigma)[:, None]
    if prediction == "epsilon":
        outputs = np.repeat(noise[None], 50, axis=0)
    else:
        outputs = (schedule.alpha[:, None] * noise - schedule.sigma[:, None] * picture) / norm
    steps = plan(schedule, start)
    end = run(steps, steps.start_alpha * picture + steps.start_sigma * noise, outputs[start:])
    expected = schedule.alpha_next[-1] * picture + schedule.sigma_next[-1] * noise
    np.testing.assert_allclose(end, expected, atol=1e-9)


def test_lms_from_mid_schedule_is_accurate_on_a_curved_path() -> None:
    """For a Gaussian of deviation s, x(σ) ∝ √(s² + σ²): Adams–Bashforth beats Euler from any step."""
    deviation = 0.8
    for start in (10, 25, 40):
        errors = {}
        for sampler in ("euler", "lms"):
            steps = plan(read_schedule(LMS_CONFIG, sampler, 50), start)
            x = 1.0
            history = [0.0] * HISTORY
            for k in range(steps.steps):
                h = x * steps.sigma[k] / (deviation**2 + steps.sigma[k] ** 2)
                x = x + float(steps.b[k] @ [h, *history])
                history = [h, *history[:-1]]
            exact = deviation / np.hypot(deviation, steps.start_sigma)
            errors[sampler] = abs(x / exact - 1)
        assert errors["lms"] < errors["euler"] / 2
        assert errors["lms"] < 0.02


def test_the_order_of_lms_ramps_up_from_the_first_own_step() -> None:
    steps = plan(read_schedule(LMS_CONFIG, "lms", 30), 12)
    assert [int(np.count_nonzero(row)) for row in steps.b[:6]] == [1, 2, 3, 4, 4, 4]


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_quadrature_is_exact_up_to_cubics(degree: int) -> None:
    nodes = np.array([3.0, 4.5, 7.0, 11.0])
    integral = lagrange_integrals(nodes, 3.0, 2.2) @ nodes**degree
    assert integral == pytest.approx((2.2 ** (degree + 1) - 3.0 ** (degree + 1)) / (degree + 1))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_clean_latent_undoes_the_noise(sampler: SamplerName) -> None:
    steps = plan(read_schedule(LMS_CONFIG, sampler, 10), 3)
    x = steps.start_alpha * 0.4 + steps.start_sigma * -1.1
    assert steps.x0_x[0] * x + steps.x0_out[0] * -1.1 == pytest.approx(0.4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_loss_guidance_moves_every_sampler_as_in_ve_space(sampler: SamplerName, prediction: str) -> None:
    steps = plan(read_schedule({**LMS_CONFIG, "prediction_type": prediction}, sampler, 20))
    slope = 1.0 if prediction == "epsilon" else 1 / (steps.sigma**2 + 1)  # ∂x₀/∂x_ve
    alpha = steps.schedule.alpha
    np.testing.assert_allclose(steps.grad_scale / alpha, steps.sigma**2 * slope, rtol=1e-6)


def test_only_ancestral_steps_add_noise_and_the_last_adds_none() -> None:
    for sampler in SAMPLERS:
        steps = plan(read_schedule(LMS_CONFIG, sampler, 10))
        assert bool(steps.noise.any()) == samplers.BY_NAME[sampler].draws_noise
        assert steps.noise[-1] == 0


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("start", [0, 4])
def test_the_table_has_a_row_for_each_step_to_do(sampler: SamplerName, start: int) -> None:
    steps = plan(read_schedule(LMS_CONFIG, sampler, 10), start)
    assert steps.table.shape == (10 - start, len(Coefficient))
    assert steps.table.dtype == np.float32
    assert np.isfinite(steps.table).all()
    np.testing.assert_array_equal(steps.table[:, Coefficient.B1], steps.b[:, 1].astype(np.float32))
    np.testing.assert_array_equal(steps.table[:, Coefficient.GRAD_SCALE], steps.grad_scale.astype(np.float32))


def test_plans_are_memoised() -> None:
    schedule = read_schedule(LMS_CONFIG, "lms", 30)
    assert read_schedule(dict(reversed(LMS_CONFIG.items())), "lms", 30) is schedule
    assert plan(schedule, 12) is plan(schedule, 12)


@pytest.mark.parametrize("start", [-1, 10, 11])
def test_a_start_beyond_the_schedule_is_refused(start: int) -> None:
    with pytest.raises(InvalidInput, match=r"start\.step: -?\d+ is not a step from 0 to 9"):
        plan(read_schedule(LMS_CONFIG, "lms", 10), start)
