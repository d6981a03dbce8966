"""Solvers that evaluate the model twice a step: Heun, DPM2, DPM2 ancestral and DPM++ SDE. See `plans`.

All work in variance-exploding space. The last step, to σ' = 0, is Euler's, with one evaluation. Where the second
evaluation begins again where the first one did, that place is (x_next − what was added to it), so that nothing more
has to be remembered; only DPM++ SDE, which adds noise in between, remembers x.
"""

from __future__ import annotations

import numpy as np

from worker.diffusion.solvers import ancestral
from worker.diffusion.steps import Combination, Floats, Schedule, Second, no_history


def heun(schedule: Schedule, _start: int) -> Combination:
    """Heun's method on dx/dσ = ε (Karras et al. 2022, arXiv:2206.00364, algorithm 1, without churn).

    Euler's step to σ', then x_next = x + (σ' − σ)·(ε + ε')/2, with ε' found there.
    """
    length = schedule.sigma_next - schedule.sigma
    timestep = np.append(schedule.timesteps[1:], schedule.timesteps[-1])
    return _stepped_twice(schedule, length, timestep, schedule.sigma_next, length / 2, length / 2)


def dpm2(schedule: Schedule, _start: int) -> Combination:
    """DPM-Solver-2 as in k-diffusion's `sample_dpm_2`: the midpoint method, with its midpoint in log σ.

    Euler's step to √(σ·σ'), then x_next = x + (σ' − σ)·ε', with ε' found there.
    """
    return _by_midpoint(schedule, schedule.sigma_next, np.zeros(schedule.steps))


def dpm2_ancestral(schedule: Schedule, _start: int) -> Combination:
    """The same down to σ_down, then fresh noise up to σ', as in k-diffusion's `sample_dpm_2_ancestral`."""
    return _by_midpoint(schedule, *ancestral(schedule.sigma, schedule.sigma_next, schedule.eta))


def dpmpp_sde(schedule: Schedule, _start: int) -> Combination:
    """DPM-Solver++(S) as an SDE of order 2, as in k-diffusion's `sample_dpmpp_sde` with r = ½.

    Both evaluations go by x ← σ_down/σ·x + (1 − σ_down/σ)·x₀ + σ_up·z: the first to √(σ·σ'), the second from the
    beginning to σ', with the x₀ that was found on the way. Each adds noise of its own.
    """
    sigma, sigma_next = schedule.sigma, schedule.sigma_next
    ends = sigma_next == 0
    middle = np.sqrt(sigma * sigma_next)
    half_down, half_up = ancestral(sigma, middle, schedule.eta)
    down, up = ancestral(sigma, sigma_next, schedule.eta)
    b = no_history(schedule)
    b[:, 0], b[:, 1] = 1 - down / sigma, down / sigma
    again = Combination("x0", np.zeros(schedule.steps), b, up)
    return Combination(
        "x",
        half_down / sigma,
        no_history(schedule),
        half_up,
        x0=1 - half_down / sigma,
        second=_second(schedule, ~ends, schedule.timestep_of(middle), middle, again),
    )


def _by_midpoint(schedule: Schedule, down: Floats, up: Floats) -> Combination:
    middle = np.sqrt(schedule.sigma * down)
    whole = down - schedule.sigma
    nothing = np.zeros(schedule.steps)
    timestep = schedule.timestep_of(middle)
    return _stepped_twice(schedule, middle - schedule.sigma, timestep, middle, nothing, whole, up)


def _stepped_twice(
    schedule: Schedule,
    length: Floats,
    timestep: Floats,
    sigma: Floats,
    first: Floats,
    second: Floats,
    noise: Floats | None = None,
) -> Combination:
    """x + length·ε at first, where ε' is found at `sigma`; then x + first·ε + second·ε' + noise·z, from the same x."""
    ends = schedule.sigma_next == 0
    nothing, ones = np.zeros(schedule.steps), np.ones(schedule.steps)
    b, b_again = no_history(schedule), no_history(schedule)
    b[:, 0] = np.where(ends, -schedule.sigma, length)
    b_again[:, 0], b_again[:, 1] = second, first - length
    again = Combination("epsilon", ones, b_again, nothing if noise is None else noise)
    return Combination("epsilon", ones, b, nothing, second=_second(schedule, ~ends, timestep, sigma, again))


def _second(
    schedule: Schedule,
    where: np.ndarray[tuple[int], np.dtype[np.bool_]],
    timestep: Floats,
    sigma: Floats,
    again: Combination,
) -> Second:
    """A second evaluation at σ; where there is none, at a level that has coefficients all the same."""
    return Second(where, timestep, np.ones(schedule.steps), np.where(where, sigma, 1.0), again)
