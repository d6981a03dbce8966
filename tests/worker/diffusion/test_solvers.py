"""The coefficients themselves: against diffusers' `step` on arbitrary outputs, quadrature, and exact solutions."""

from __future__ import annotations

import inspect
import sys
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from farm.errors import InvalidInput
from farm.jobs.samplers import KNOWN, SAMPLERS, SamplerName, ScheduleName
from tests.tiny import LMS_CONFIG, PNDM_CONFIG, XL_CONFIG
from tests.worker.diffusion.loop import SCHEDULERS, SPACED, scheduler_for
from worker.diffusion import samplers
from worker.diffusion.plans import Coefficient, SamplingPlan, plan
from worker.diffusion.schedules import read_schedule
from worker.diffusion.solvers import lagrange_integrals
from worker.diffusion.steps import HISTORY, Floats

QUIET = [one.name for one in samplers.BY_NAME.values() if not one.draws_noise or KNOWN[one.name].takes_eta]
"""Those that add no noise, or can do without."""

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


def run(steps: SamplingPlan, x: Floats, outputs: Floats, noises: Floats | None = None) -> Floats:
    """x after all steps, given what the model says in each evaluation, and the noise that is drawn in order."""
    history = [np.zeros_like(x)] * HISTORY
    drawn = iter(()) if noises is None else iter(noises)
    for k, out in enumerate(outputs):
        h = steps.h_x[k] * x + steps.h_out[k] * out
        x = steps.a[k] * x + steps.out[k] * out + np.tensordot(steps.b[k], np.stack([h, *history]), 1)
        if steps.noise[k]:
            x = x + steps.noise[k] * next(drawn)
        history = [h, *history[:-1]] if steps.remember[k] else history
    return x


def by_diffusers(
    scheduler: Any, timesteps: Any, x: Floats, outputs: Floats, noises: Floats
) -> tuple[Floats, list[float]]:
    """The same by diffusers' scheduler, whose timesteps are set, and what it multiplies the model's inputs by."""
    drawn = iter(noises)

    def draw(sample: Any, *_: Any, **options: Any) -> Any:
        return torch.from_numpy(next(drawn)).to(options.get("dtype", torch.float64))

    scheduler.draw = draw
    modules = {sys.modules[ancestor.__module__] for ancestor in type(scheduler).__mro__}
    with ExitStack() as patched:
        for module in modules:
            if hasattr(module, "randn_tensor"):
                patched.enter_context(patch.object(module, "randn_tensor", draw))
        expected, scales = torch.from_numpy(x), []
        for timestep, out in zip(timesteps, outputs, strict=True):
            scales.append(float(scheduler.scale_model_input(torch.ones(1), timestep)))
            expected = scheduler.step(torch.from_numpy(out), timestep, expected.double()).prev_sample
    return expected.double().numpy(), scales


COUNTS = (1, 2, 5, 14, 15, 40)
COUNTS_OF_OTHERS = (1, 14, 15)
COMPARED = [
    (sampler, config, count)
    for place, sampler in enumerate(SAMPLERS)
    for config in CONFIGS
    for count in (COUNTS if place < 5 else COUNTS_OF_OTHERS)
    # In float32 σ_down is lost beside σ' where a step is that long.
    if (sampler, config) != ("dpm2_a", "zero terminal SNR")
]


@pytest.mark.long
@pytest.mark.parametrize(("sampler", "config", "count"), COMPARED)
def test_steps_equal_those_of_diffusers(sampler: SamplerName, config: str, count: int) -> None:
    scheduler = scheduler_for(CONFIGS[config], sampler)
    scheduler.set_timesteps(count)

    compare(plan(read_schedule(CONFIGS[config], sampler, count)), scheduler)


def compare(steps: SamplingPlan, scheduler: Any) -> None:
    """Hold a plan against diffusers' scheduler, whose timesteps are set, from noise on."""
    outputs, noises = np.random.default_rng(0).standard_normal((2, 2 * steps.steps, 1, 16))
    outputs = outputs[: len(scheduler.timesteps)]
    x = outputs[0] * float(scheduler.init_noise_sigma)

    expected, scales = by_diffusers(scheduler, scheduler.timesteps, x, outputs, noises)

    assert len(steps.timestep) == len(outputs)
    assert steps.init_scale == pytest.approx(float(scheduler.init_noise_sigma), rel=1e-5)
    np.testing.assert_allclose(steps.timestep, scheduler.timesteps, atol=0.02)
    np.testing.assert_allclose(steps.input_scale, scales, rtol=1e-4)
    # Float32 rounds what a division by little signal then magnifies.
    largest = max(1.0, float(np.abs(expected).max()), steps.schedule.sigma_ve[0] / 5)
    np.testing.assert_allclose(run(steps, x, outputs, noises), expected, atol=1e-5 * largest)


def _reads(sampler: SamplerName, setting: str) -> bool:
    """Whether diffusers' scheduler for a sampler knows a setting."""
    kinds = SCHEDULERS[sampler][0].__mro__
    return any(setting in inspect.signature(kind.__init__).parameters for kind in kinds if "__init__" in vars(kind))


@pytest.mark.long
@pytest.mark.parametrize("config", [PNDM_CONFIG, XL_CONFIG], ids=["as SD is published", "as SDXL is"])
@pytest.mark.parametrize("count", [4, 15])
@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [
        (sampler, schedule)
        for sampler in SAMPLERS
        for schedule, setting in SPACED.items()
        if schedule in KNOWN[sampler].schedules and _reads(sampler, *setting)
    ],
)
def test_a_schedule_is_diffusers(
    sampler: SamplerName, schedule: ScheduleName, count: int, config: dict[str, Any]
) -> None:
    scheduler = scheduler_for(config, sampler, **SPACED[schedule])
    scheduler.set_timesteps(count)

    compare(plan(read_schedule(config, sampler, count, spacing=schedule)), scheduler)


@pytest.mark.parametrize("sampler", [sampler for sampler in SAMPLERS if sampler != "lms"])
@pytest.mark.parametrize("start", [1, 12, 19])
def test_steps_from_mid_schedule_equal_those_of_diffusers(sampler: SamplerName, start: int) -> None:
    """LMS' do not: diffusers takes its order from the global step. PNDM is given the timesteps that it means."""
    scheduler = scheduler_for(PNDM_CONFIG, sampler)
    scheduler.set_timesteps(20)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start * scheduler.order)
    timesteps = scheduler.timesteps[start * scheduler.order :]
    if sampler == "pndm":
        own = scheduler.timesteps[[0, *range(2, 21)]][start:]
        timesteps = torch.cat([own[:2], own[1:]])
    outputs, noises = np.random.default_rng(start).standard_normal((2, 2 * 20, 1, 16))
    outputs = outputs[: len(timesteps)]
    x = outputs[0] + noises[-1]

    expected, scales = by_diffusers(scheduler, timesteps, x, outputs, noises)

    steps = plan(read_schedule(PNDM_CONFIG, sampler, 20), start)
    np.testing.assert_allclose(steps.timestep, timesteps, atol=1e-3)
    np.testing.assert_allclose(steps.input_scale, scales, rtol=1e-4)
    np.testing.assert_allclose(run(steps, x, outputs, noises), expected, atol=1e-4)


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


@pytest.mark.parametrize(
    ("sampler", "prediction"),
    [
        *((sampler, "epsilon") for sampler in QUIET),
        # diffusers' PNDM mixes the v of unlike noise levels, and so does the farm's.
        *((sampler, "v_prediction") for sampler in QUIET if sampler != "pndm"),
    ],
)
@pytest.mark.parametrize("start", [0, 30, 45])
def test_a_perfect_denoiser_of_one_picture_is_solved_exactly(sampler: SamplerName, prediction: str, start: int) -> None:
    """ε is constant along the path to a single picture, so every order solves it without error."""
    config = {**LMS_CONFIG, "prediction_type": prediction}
    schedule = read_schedule(config, sampler, 50, eta=0.0 if KNOWN[sampler].takes_eta else None)
    picture, noise = np.array([0.3, -1.2]), np.array([0.7, 0.1])
    steps = plan(schedule, start)
    outputs = np.repeat(noise[None], len(steps.sigma), axis=0)
    if prediction == "v_prediction":
        norm = np.hypot(1, steps.sigma)[:, None]
        outputs = (noise - steps.sigma[:, None] * picture) / norm
    end = run(steps, steps.start_alpha * picture + steps.start_sigma * noise, outputs)
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
    first = steps.first_rows
    sigma = steps.sigma[first]
    slope = 1.0 if prediction == "epsilon" else 1 / (sigma**2 + 1)  # ∂x₀/∂x_ve
    np.testing.assert_allclose(steps.grad_scale[first] / steps.schedule.alpha, sigma**2 * slope, rtol=1e-6)
    assert np.delete(steps.grad_scale, first).sum() == 0


def test_only_ancestral_steps_add_noise_and_the_last_adds_none() -> None:
    for sampler in SAMPLERS:
        steps = plan(read_schedule(LMS_CONFIG, sampler, 10))
        assert bool(steps.noise.any()) == samplers.BY_NAME[sampler].draws_noise
        assert steps.noise[-1] == 0


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("start", [0, 4])
def test_the_table_has_a_row_for_each_evaluation(sampler: SamplerName, start: int) -> None:
    steps = plan(read_schedule(LMS_CONFIG, sampler, 10), start)
    assert steps.steps == 10 - start
    assert steps.table.shape == (sum(steps.evaluations), len(Coefficient))
    np.testing.assert_array_equal(steps.sigma[steps.first_rows], steps.schedule.sigma_ve[start:])
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
