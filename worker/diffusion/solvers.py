"""The first solvers: LMS, Euler and its ancestral kind, DDIM and DPM-Solver++(2M). See `plans` for what a solver is."""

from __future__ import annotations

import numpy as np

from worker.diffusion.steps import HISTORY, Combination, Floats, Schedule, first_order, no_history


def lms(schedule: Schedule, start: int) -> Combination:
    """Linear multistep (Adams–Bashforth) of order 4 on dx/dσ = ε, as in k-diffusion's `sample_lms`.

    x(σ') = x(σ) + Σₖ h₋ₖ·∫ℓₖ(τ)dτ over [σ, σ'], with ℓₖ the Lagrange polynomials on the last noise levels.
    The order ramps up from the job's own first step, min(i − start + 1, 4): a job that starts in mid-schedule
    has no history either.
    """
    levels = np.append(schedule.sigma, schedule.sigma_next[-1])
    b = no_history(schedule)
    for i in range(start, schedule.steps):
        order = min(i - start + 1, HISTORY + 1)
        b[i, :order] = lagrange_integrals(levels[i - order + 1 : i + 1][::-1], levels[i], levels[i + 1])
    return Combination("epsilon", np.ones(schedule.steps), b, np.zeros(schedule.steps))


def lagrange_integrals(nodes: Floats, begin: float, end: float) -> Floats:
    """∫ℓₖ(τ)dτ from `begin` to `end` for each Lagrange polynomial ℓₖ on up to four distinct `nodes`.

    Gauss–Legendre quadrature with two points, which is exact up to cubics.
    """
    middle, half = (begin + end) / 2, (end - begin) / 2
    points = middle + half * np.array([-1.0, 1.0]) / np.sqrt(3.0)
    integrals = np.empty(len(nodes))
    for k, node in enumerate(nodes):
        others = np.delete(nodes, k)
        integrals[k] = half * np.prod((points[:, None] - others) / (node - others), axis=1).sum()
    return integrals


def euler(schedule: Schedule, _start: int) -> Combination:
    """Euler's method on dx/dσ = ε: x_next = x + (σ' − σ)·ε (Karras et al. 2022, arXiv:2206.00364, algorithm 1)."""
    b = no_history(schedule)
    b[:, 0] = schedule.sigma_next - schedule.sigma
    return Combination("epsilon", np.ones(schedule.steps), b, np.zeros(schedule.steps))


def euler_ancestral(schedule: Schedule, _start: int) -> Combination:
    """Euler down to σ_down, then fresh noise up to σ', as in k-diffusion's `sample_euler_ancestral`.

    x_next = x + (σ_down − σ)·ε + σ_up·z, see `ancestral`.
    """
    down, up = ancestral(schedule.sigma, schedule.sigma_next, schedule.eta)
    b = no_history(schedule)
    b[:, 0] = down - schedule.sigma
    return Combination("epsilon", np.ones(schedule.steps), b, up)


def ancestral(sigma: Floats, sigma_next: Floats, eta: float) -> tuple[Floats, Floats]:
    """How far down a step goes, and how much noise then takes it up to σ', in VE space.

    σ_up² = η²·σ'²·(σ² − σ'²)/σ² and σ_down² = σ'² − σ_up²: with η = 1 σ_down = σ'²/σ, with η = 0 there is no noise.
    """
    ratio = sigma_next / sigma
    return sigma_next * np.sqrt((1 - eta**2) + (eta * ratio) ** 2), eta * sigma_next * np.sqrt(1 - ratio**2)


def ddim(schedule: Schedule, _start: int) -> Combination:
    """DDIM: x_next = α'·x₀ + √(σ'² − s²)·ε + s·z (Song et al. 2020, arXiv:2010.02502, equations 12 and 16).

    s² = η²·(σ'/σ)²·(1 − α²/α'²); η = 1 is DDPM (Ho et al. 2020, arXiv:2006.11239, equation 7).
    With ε = (x − α·x₀)/σ this is x_next = a·x + (α' − α·a)·x₀ for a = √(σ'² − s²)/σ, which stays finite at zero signal.
    """
    alpha, alpha_next, ratio = schedule.alpha, schedule.alpha_next, schedule.sigma_next / schedule.sigma
    noise = schedule.eta * ratio * np.sqrt(np.maximum(1 - (alpha / alpha_next) ** 2, 0.0))
    a = np.sqrt(np.maximum(schedule.sigma_next**2 - noise**2, 0.0)) / schedule.sigma if schedule.eta else ratio
    b = no_history(schedule)
    b[:, 0] = alpha_next - alpha * a
    return Combination("x0", a, b, noise)


def dpmpp_2m(schedule: Schedule, start: int) -> Combination:
    """DPM-Solver++(2M), midpoint (Lu et al. 2022, arXiv:2211.01095, algorithm 2).

    With λ = log(α/σ), h = λ' − λ and r = (λ − λ₋₁)/h:
    x_next = σ'/σ·x + α'·(1 − e⁻ʰ)·((1 + 1/2r)·x₀ − 1/2r·x₀₋₁), where α'·(1 − e⁻ʰ) = α' − α·σ'/σ.
    The first of the job's own steps, and the last where the schedule asks for it, are of first order (DDIM).
    """
    a, b = first_order(schedule)
    rate = np.log(schedule.alpha / schedule.sigma)
    for i in range(start, schedule.steps):
        if schedule.order(i, start, most=2) == 2:
            rate_next = np.log(schedule.alpha_next[i] / schedule.sigma_next[i])
            half_inverse_r = (rate_next - rate[i]) / (rate[i] - rate[i - 1]) / 2
            b[i, :2] = b[i, 0] * (1 + half_inverse_r), -b[i, 0] * half_inverse_r
    return Combination("x0", a, b, np.zeros(schedule.steps))
