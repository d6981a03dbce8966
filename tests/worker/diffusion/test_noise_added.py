"""Samplers that add noise, with any eta, against k-diffusion's formulas, written down for a variance that explodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from farm.jobs.samplers import SamplerName, ScheduleName
from tests.tiny import LMS_CONFIG
from tests.worker.diffusion.test_solvers import run
from worker.diffusion.plans import plan
from worker.diffusion.schedules import read_schedule
from worker.diffusion.steps import Floats

STEPS = 16
Numbers = Iterator[Floats]
Reference = Callable[[Floats, Floats, Numbers, Numbers, float], Any]
"""x at the end, of sigmas with the final one, x, what the model says, noise and eta."""


def down_and_up(sigma: float, to: float, eta: float) -> tuple[float, float]:
    up = min(to, eta * np.sqrt(to**2 * (sigma**2 - to**2) / sigma**2))
    return np.sqrt(to**2 - up**2), up


def euler_ancestral(sigmas: Floats, x: Floats, outputs: Numbers, noise: Numbers, eta: float) -> Any:
    for sigma, to in pairwise(sigmas):
        down, up = down_and_up(sigma, to, eta)
        x = x + (down - sigma) * next(outputs)
        x = x + up * next(noise) if up else x
    return x


def dpm2_ancestral(sigmas: Floats, x: Floats, outputs: Numbers, noise: Numbers, eta: float) -> Any:
    for sigma, to in pairwise(sigmas):
        down, up = down_and_up(sigma, to, eta)
        if to == 0:
            return x - sigma * next(outputs)
        middle = np.exp((np.log(sigma) + np.log(down)) / 2)
        next(outputs)  # where it leads to is where the model is asked next
        x = x + (down - sigma) * next(outputs)
        x = x + up * next(noise) if up else x
        assert down < middle < sigma
    return x


def dpmpp_sde(sigmas: Floats, x: Floats, outputs: Numbers, noise: Numbers, eta: float) -> Any:
    for sigma, to in pairwise(sigmas):
        if to == 0:
            return x - sigma * next(outputs)
        middle = np.sqrt(sigma * to)
        down, up = down_and_up(sigma, middle, eta)
        x_2 = down / sigma * x + (1 - down / sigma) * (x - sigma * next(outputs))
        x_2 = x_2 + up * next(noise) if up else x_2
        down, up = down_and_up(sigma, to, eta)
        x = down / sigma * x + (1 - down / sigma) * (x_2 - middle * next(outputs))
        x = x + up * next(noise) if up else x
    return x


def dpmpp_2m_sde(sigmas: Floats, x: Floats, outputs: Numbers, noise: Numbers, eta: float) -> Any:
    before, h_before = None, 0.0
    for sigma, to in pairwise(sigmas):
        denoised = x - sigma * next(outputs)
        if to == 0:
            return denoised
        h = np.log(sigma / to)
        x = to / sigma * np.exp(-eta * h) * x - np.expm1(-h - eta * h) * denoised
        if before is not None:
            x = x - 0.5 * np.expm1(-h - eta * h) * (h / h_before) * (denoised - before)
        x = x + to * np.sqrt(-np.expm1(-2 * eta * h)) * next(noise) if eta else x
        before, h_before = denoised, h
    return x


def dpmpp_3m_sde(sigmas: Floats, x: Floats, outputs: Numbers, noise: Numbers, eta: float) -> Any:
    denoised_1, denoised_2, h_1, h_2 = None, None, 0.0, 0.0
    for sigma, to in pairwise(sigmas):
        denoised = x - sigma * next(outputs)
        if to == 0:
            return denoised
        h = np.log(sigma / to)
        h_eta = h * (eta + 1)
        x = np.exp(-h_eta) * x - np.expm1(-h_eta) * denoised
        phi_2 = np.expm1(-h_eta) / h_eta + 1
        if denoised_1 is not None and denoised_2 is not None:
            r_0, r_1 = h_1 / h, h_2 / h
            d_0, d_1 = (denoised - denoised_1) / r_0, (denoised_1 - denoised_2) / r_1
            x = x + phi_2 * (d_0 + (d_0 - d_1) * r_0 / (r_0 + r_1)) - (phi_2 / h_eta - 0.5) * (d_0 - d_1) / (r_0 + r_1)
        elif denoised_1 is not None:
            x = x + phi_2 * (denoised - denoised_1) / (h_1 / h)
        x = x + to * np.sqrt(-np.expm1(-2 * h * eta)) * next(noise) if eta else x
        denoised_1, denoised_2, h_1, h_2 = denoised, denoised_1, h, h_1
    return x


REFERENCES: dict[SamplerName, Reference] = {
    "euler_a": euler_ancestral,
    "dpm2_a": dpm2_ancestral,
    "dpmpp_sde": dpmpp_sde,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_3m_sde": dpmpp_3m_sde,
}


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("schedule", ["model", "karras", "sgm_uniform"])
@pytest.mark.parametrize("sampler", REFERENCES)
def test_steps_are_k_diffusions(sampler: SamplerName, schedule: ScheduleName, eta: float) -> None:
    read = read_schedule(LMS_CONFIG, sampler, STEPS, spacing=schedule, eta=eta)
    steps = plan(read)
    outputs, noises = np.random.default_rng(1).standard_normal((2, 2 * STEPS, 4))
    sigmas = np.append(read.sigma_ve, 0.0)
    x = sigmas[0] * noises[-1]

    made = run(steps, read.alpha[0] * x, outputs[: len(steps.table)], noises)

    expected = REFERENCES[sampler](sigmas, x, iter(outputs), iter(noises), eta)
    np.testing.assert_allclose(made, expected, rtol=1e-9, atol=1e-9)


def test_without_noise_samplers_are_those_of_their_equation() -> None:
    """With eta 0 an ancestral step goes to σ' itself, and SDE-DPM-Solver++ is DPM-Solver++."""
    twins: dict[SamplerName, SamplerName] = {"euler_a": "euler", "dpm2_a": "dpm2", "dpmpp_2m_sde": "dpmpp_2m"}
    for noisy, quiet in twins.items():
        one, other = plan(read_schedule(LMS_CONFIG, noisy, 7, eta=0.0)), plan(read_schedule(LMS_CONFIG, quiet, 7))
        np.testing.assert_allclose(one.table, other.table, rtol=1e-5, atol=1e-6)
    one, other = plan(read_schedule(LMS_CONFIG, "ddim", 7, eta=1.0)), plan(read_schedule(LMS_CONFIG, "ddpm", 7))
    np.testing.assert_allclose(one.table, other.table, rtol=1e-5, atol=1e-6)
