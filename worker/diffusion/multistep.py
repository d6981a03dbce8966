"""Multistep solvers with a past: DEIS, UniPC and PNDM. See `plans` for what a solver is."""

from __future__ import annotations

import numpy as np

from worker.diffusion.steps import Combination, Floats, Schedule, Second, first_order, no_history


def deis(schedule: Schedule, start: int) -> Combination:
    """DEIS of order 2 in log ρ (Zhang & Chen 2022, arXiv:2204.13902): Adams–Bashforth on dy/dρ = ε.

    With y = x/α and ρ = σ/α: y' = y + Σₖ h₋ₖ·∫ℓₖ dρ over [ρ, ρ'], where ℓₖ are the Lagrange polynomials in log ρ on
    the last two levels. Its last level is the least that the model was trained on, and not 0, as in diffusers.
    """
    rho, rho_next = schedule.sigma / schedule.alpha, schedule.sigma_next / schedule.alpha_next
    b = no_history(schedule)
    b[:, 0] = schedule.alpha_next * (rho_next - rho)
    for i in range(start, schedule.steps):
        if schedule.order(i, start, most=2) == 2:
            here, before = (
                _log_integral(rho[i], rho_next[i], one, other)
                for one, other in ((rho[i], rho[i - 1]), (rho[i - 1], rho[i]))
            )
            b[i, :2] = schedule.alpha_next[i] * here, schedule.alpha_next[i] * before
    return Combination("epsilon", schedule.alpha_next / schedule.alpha, b, np.zeros(schedule.steps))


def _log_integral(begin: float, end: float, node: float, other: float) -> float:
    """∫(log ρ − log other)/(log node − log other) dρ from `begin` to `end`."""

    def until(rho: float) -> float:
        return float(rho * (np.log(rho) - np.log(other) - 1) / (np.log(node) - np.log(other)))

    return until(end) - until(begin)


def unipc(schedule: Schedule, start: int) -> Combination:
    """UniPC of order 2 with B(h) = eʰ − 1, on x₀ (Zhao et al. 2023, arXiv:2302.04867, algorithms 5 and 6).

    Each evaluation first corrects the latents that the step before predicted, then predicts. The corrected latents
    differ from the predicted ones by a combination of x₀ and the two before it, so both are one combination.
    """
    a, b = first_order(schedule)
    rate = np.log(schedule.alpha / schedule.sigma)
    for i in range(start, schedule.steps):
        if schedule.order(i, start, most=2) == 2:
            rate_next = np.log(schedule.alpha_next[i] / schedule.sigma_next[i])
            b[i, :2] += _towards(b[i, 0] / 2, (rate[i - 1] - rate[i]) / (rate_next - rate[i]))
        if i > start:
            b[i, :3] += a[i] * _correction(schedule, rate, i, schedule.order(i - 1, start, most=2))
    return Combination("x0", a, b, np.zeros(schedule.steps))


def _towards(weight: float, ratio: float) -> Floats:
    """weight·(older − newer)/ratio, as weights of newer and older."""
    return np.array([-weight / ratio, weight / ratio])


def _correction(schedule: Schedule, rate: Floats, i: int, order: int) -> Floats:
    """What is added to the latents that the step i − 1, of this order, predicted: weights of x₀, x₀₋₁ and x₀₋₂."""
    step = rate[i] - rate[i - 1]
    whole = -np.expm1(-step) * schedule.alpha[i]  # −α·B(h)
    if order == 1:
        return np.array([whole / 2, -whole / 2, 0.0])
    ratio = (rate[i - 2] - rate[i - 1]) / step
    phi_1 = np.expm1(-step) / -step - 1
    phi_2 = phi_1 / -step - 0.5
    older, newest = np.linalg.solve([[1.0, 1.0], [ratio, 1.0]], np.array([phi_1, 2 * phi_2]) / np.expm1(-step))
    change = np.array([whole * newest, -whole * newest, 0.0])
    change[1:] += _towards(whole * (older - 0.5), ratio)  # the prediction took half of it
    return change


def pndm(schedule: Schedule, start: int) -> Combination:
    """Pseudo linear multistep (Liu et al. 2022, arXiv:2202.09778), with Heun's first step, as Stable Diffusion has it.

    Adams–Bashforth for even steps on the model's output, carried from level to level as DDIM carries ε:
    x_next = s·x − c·e with e = ε, or with α·e + σ·x for ε where the model predicts v. The first step evaluates the
    model where it has come to, and goes again from its beginning by the mean of both; what it found there is not
    remembered.
    """
    x, out = _carried(schedule, schedule.alpha, schedule.sigma, schedule.alpha_next, schedule.sigma_next)
    b = no_history(schedule)
    for i in range(start, schedule.steps):
        weights = _ADAMS_BASHFORTH[min(i - start, 3)]
        b[i, : len(weights)] = out[i] * np.array(weights)
    return Combination("output", x, b, np.zeros(schedule.steps), second=_second_look(schedule, start, x, b))


_ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def _second_look(schedule: Schedule, start: int, x: Floats, b: Floats) -> Second:
    """The first step again, from the latents that it was to begin at: x is (x_next − b0·e₋₁)/a."""
    steps = schedule.steps
    timestep, alpha, sigma = (
        np.append(values[1:], values[-1]) for values in (schedule.timesteps, schedule.alpha, schedule.sigma)
    )
    where = np.zeros(steps, dtype=bool)
    where[start] = start < steps - 1
    began = np.minimum(timestep.astype(np.int64) + len(schedule.products) // steps, len(schedule.products) - 1)
    product = schedule.products[began]
    again, out = _carried(schedule, np.sqrt(product), np.sqrt(1 - product), alpha, sigma)
    a = again / x
    weights = no_history(schedule)
    weights[:, 0] = out / 2
    weights[:, 1] = out / 2 - a * b[:, 0]
    step = Combination("output", a, weights, np.zeros(steps))
    return Second(where, timestep, alpha, sigma, step, is_remembered=False)


def _carried(
    schedule: Schedule, alpha: Floats, sigma: Floats, alpha_next: Floats, sigma_next: Floats
) -> tuple[Floats, Floats]:
    """The weights of x and of the model's output in DDIM's step from one level to another."""
    if schedule.prediction == "epsilon":
        return alpha_next / alpha, sigma_next - sigma * alpha_next / alpha
    return alpha * alpha_next + sigma * sigma_next, alpha * sigma_next - sigma * alpha_next
