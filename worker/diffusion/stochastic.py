"""Solvers that add noise as they go, with a past or without: SDE-DPM-Solver++ and LCM. See `plans`."""

from __future__ import annotations

import numpy as np

from worker.diffusion.steps import Combination, Floats, Schedule, no_history


def dpmpp_2m_sde(schedule: Schedule, start: int) -> Combination:
    """SDE-DPM-Solver++(2M), midpoint (Lu et al. 2022, arXiv:2211.01095, appendix B), with k-diffusion's η.

    As `dpmpp_2m`, with an integrating factor of (1 + η)·h instead of h, and fresh noise:
    x_next = σ'/σ·e^(−η·h)·x + c·((1 + 1/2r)·x₀ − 1/2r·x₀₋₁) + σ'·√(1 − e^(−2η·h))·z, with c = α'·(1 − e^(−(1 + η)·h)).
    """
    a, b, noise = _first_order(schedule)
    for i in range(start, schedule.steps):
        if schedule.order(i, start, most=2) == 2:
            rate, rate_next, before = _rates(schedule, i, 1)
            half_inverse_r = (rate_next - rate) / (rate - before) / 2
            b[i, :2] = b[i, 0] * (1 + half_inverse_r), -b[i, 0] * half_inverse_r
    return Combination("x0", a, b, noise)


def dpmpp_3m_sde(schedule: Schedule, start: int) -> Combination:
    """SDE-DPM-Solver++(3M), as in k-diffusion's `sample_dpmpp_3m_sde`.

    With H = (1 + η)·h, φ₂ = (e⁻ᴴ − 1)/H + 1, φ₃ = φ₂/H − 1/2 and the divided differences d₁ and d₂ of x₀ by λ, times h
    and h²: x_next gains α'·φ₂·d₁ − α'·φ₃·d₂ over first order. diffusers' class has another sign within φ₃ where it adds
    noise, which makes it of lower order; without noise both are the same.
    """
    a, b, noise = _first_order(schedule)
    for i in range(start, schedule.steps):
        order = schedule.order(i, start, most=3)
        if order == 1:
            continue
        rate, rate_next, before, *oldest = _rates(schedule, i, order - 1)
        step = rate_next - rate
        integrated = (1 + schedule.eta) * step
        phi_2 = np.expm1(-integrated) / integrated + 1
        newer = np.array([1.0, -1.0, 0.0]) * step / (rate - before)
        if order == 2:
            b[i, :3] += schedule.alpha_next[i] * phi_2 * newer
            continue
        older = np.array([0.0, 1.0, -1.0]) * step / (before - oldest[0])
        r0, r1 = (rate - before) / step, (before - oldest[0]) / step
        first = newer + (newer - older) * r0 / (r0 + r1)
        twice = (newer - older) / (r0 + r1)
        b[i, :3] += schedule.alpha_next[i] * (phi_2 * first - (phi_2 / integrated - 0.5) * twice)
    return Combination("x0", a, b, noise)


def _first_order(schedule: Schedule) -> tuple[Floats, Floats, Floats]:
    """a, b and noise of SDE-DPM-Solver++(1), with e⁻ʰ = α·σ'/(α'·σ), which is 0 where the noise ends."""
    ratio = schedule.sigma_next / schedule.sigma
    decay = schedule.alpha / schedule.alpha_next * ratio
    b = no_history(schedule)
    b[:, 0] = schedule.alpha_next * (1 - decay ** (1 + schedule.eta))
    noise = schedule.sigma_next * np.sqrt(1 - decay ** (2 * schedule.eta)) if schedule.eta else 0 * ratio
    return ratio * decay**schedule.eta, b, noise


def _rates(schedule: Schedule, i: int, older: int) -> tuple[float, ...]:
    """λ = log(α/σ) where step i begins and ends, and where the steps before it began."""
    begin = [np.log(schedule.alpha[k] / schedule.sigma[k]) for k in range(i, i - older - 1, -1)]
    return begin[0], np.log(schedule.alpha_next[i] / schedule.sigma_next[i]), *begin[1:]


def lcm(schedule: Schedule, _start: int) -> Combination:
    """Multistep sampling of a latent consistency model (Luo et al. 2023, arXiv:2310.04378, algorithm 3).

    The consistency function's value c_skip·x + c_out·x₀ is taken for the clean latent, and noised anew to the next
    level: x_next = α'·(c_skip·x + c_out·x₀) + σ'·z, with s the timestep times 10, c_skip = ¼/(s² + ¼) and
    c_out = s/√(s² + ¼), as diffusers has them.
    """
    scaled = _TIMESTEP_SCALING * schedule.timesteps
    skip = _VARIANCE / (scaled**2 + _VARIANCE)
    b = no_history(schedule)
    b[:, 0] = schedule.alpha_next * scaled / np.sqrt(scaled**2 + _VARIANCE)
    return Combination("x0", schedule.alpha_next * skip, b, schedule.sigma_next)


_TIMESTEP_SCALING = 10.0
_VARIANCE = 0.25
"""Of the latents, as the models were distilled."""
