"""Samplers as mathematics: every sampler is, step by step, one linear combination of what is at hand.

A model is trained on x = α·x₀ + σ·ε. A variance-exploding (VE) sampler keeps α = 1 and lets σ grow; a
variance-preserving (VP) one keeps α² + σ² = 1. From the guided model output `out` (ε- or v-prediction)
every step computes, with coefficients that depend only on the schedule and the job's start step:

    x_in   = input_scale·x                                          what the UNet sees
    x₀     = x0_x·x + x0_out·out                                    predicted clean latent
    h      = h_x·x + h_out·out                                      what the solver remembers
    x_next = a·x + out·out + b0·h + b1·h₋₁ + b2·h₋₂ + b3·h₋₃ + noise·z      the step, z ~ N(0, 1)

A `SamplingPlan` is the table of those coefficients, so that jobs with unlike samplers, schedules and start steps
advance together: one row gathered for each job, one multiplication for each column. Nothing here
needs torch.

A step may take a second evaluation of the model, at latents that the first one made (see `Second`): then it is two rows
of the table. Further solvers are in `multistep`, `stochastic` and `twice`.

The model's output gives x₀ in either space, with n² = α² + σ²:

    ε-prediction   x₀ = (x − σ·out) / α
    v-prediction   x₀ = α/n²·x − σ/n·out        (Salimans & Ho 2022, arXiv:2202.00512, on x/n)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from farm.errors import InvalidInput
from farm.jobs.spec import SamplerName

HISTORY = 3
"""How many older entries of h a step may use."""
_LEAST_ALPHA = 2.0**-12

Floats = NDArray[np.float64]
Prediction = Literal["epsilon", "v_prediction"]
Solver = Callable[["Schedule", int], "Combination"]
"""A sampler's mathematics: what every step of a schedule combines, for a job that starts at this step."""


class Coefficient(IntEnum):
    """The columns of `SamplingPlan.table`, in order."""

    TIMESTEP = 0
    SIGMA = 1
    INPUT_SCALE = 2
    X0_X = 3
    X0_OUT = 4
    H_X = 5
    H_OUT = 6
    A = 7
    B0 = 8
    B1 = 9
    B2 = 10
    B3 = 11
    NOISE = 12
    GRAD_SCALE = 13
    OUT = 14
    REMEMBER = 15
    """1 where h is remembered, 0 where what is remembered stays as it is."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """The noise levels of all `steps` steps, in the space that the sampler works in. Compared by identity.

    Step i goes from x = alpha[i]·x₀ + sigma[i]·ε to the level alpha_next[i], sigma_next[i].
    """

    sampler: SamplerName
    solver: Solver
    prediction: Prediction
    timesteps: Floats
    alpha: Floats
    sigma: Floats
    alpha_next: Floats
    sigma_next: Floats
    init_scale: float
    """Standard deviation of the first x of a job that starts from noise."""
    products: Floats = field(kw_only=True)
    """ᾱ = α²/(α² + σ²) of every timestep that the model was trained on."""
    eta: float = field(default=0.0, kw_only=True)
    """How much of the noise that a step may add it adds, 0 to 1."""
    end_orders: Sequence[int] = field(default=(), kw_only=True)
    """The highest order of the last step, of the last but one, and so on; where there is none, it has no limit."""
    spacing: str = field(default="", kw_only=True)
    """How the levels are spaced: see `farm.jobs.report.ScheduleUsed`."""

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    def order(self, step: int, start: int, most: int) -> int:
        """The order of a multistep solver at a step of a job that starts at `start`: it has no older history."""
        from_the_end = self.steps - 1 - step
        limit = self.end_orders[from_the_end] if from_the_end < len(self.end_orders) else most
        return min(most, step - start + 1, limit)

    def timestep_of(self, sigma_ve: Floats) -> Floats:
        """The timesteps, with fractions, at which the model was trained on these noise levels; any for 0."""
        trained = np.log(np.maximum(1 - self.products, 1e-20) / np.maximum(self.products, 1e-20)) / 2
        return np.interp(np.log(np.maximum(sigma_ve, 1e-10)), trained, np.arange(len(trained), dtype=np.float64))

    @cached_property
    def sigma_ve(self) -> Floats:
        """σ/α: the noise level as a variance-exploding sampler counts it, kept finite at zero signal."""
        return self.sigma / np.maximum(self.alpha, _LEAST_ALPHA)


@dataclass(frozen=True, eq=False)
class SamplingPlan:
    """The steps that one job does: every array has one entry for each evaluation of the model. Compared by identity.

    `start_alpha` and `start_sigma` noise an encoded image to the level of the first step
    (x = start_alpha·latent + start_sigma·z); a job from noise starts at x = init_scale·z instead.
    Loss guidance moves x before a step: x ← x − grad_scale·∂L/∂x₀ (see `_grad_scale`); before a second evaluation
    it does not.
    """

    schedule: Schedule
    start: int
    evaluations: tuple[int, ...]
    """How often each of the steps to do evaluates the model: once or twice."""
    timestep: Floats
    sigma: Floats
    input_scale: Floats
    x0_x: Floats
    x0_out: Floats
    h_x: Floats
    h_out: Floats
    a: Floats
    b: Floats
    """[evaluations, 1 + HISTORY]: the weights of h, h₋₁, h₋₂ and h₋₃."""
    noise: Floats
    grad_scale: Floats
    out: Floats
    remember: Floats

    @property
    def steps(self) -> int:
        """How many steps there are to do."""
        return len(self.evaluations)

    @property
    def init_scale(self) -> float:
        return self.schedule.init_scale

    @property
    def start_alpha(self) -> float:
        return float(self.schedule.alpha[self.start])

    @property
    def start_sigma(self) -> float:
        return float(self.schedule.sigma[self.start])

    @cached_property
    def first_rows(self) -> NDArray[np.int64]:
        """[steps to do]: where in the table each step begins."""
        return np.cumsum([0, *self.evaluations[:-1]])

    @cached_property
    def table(self) -> NDArray[np.float32]:
        """[evaluations, len(Coefficient)], float32: the coefficients of the job's evaluations, in order."""
        columns = [
            self.timestep,
            self.sigma,
            self.input_scale,
            self.x0_x,
            self.x0_out,
            self.h_x,
            self.h_out,
            self.a,
            *self.b.T,
            self.noise,
            self.grad_scale,
            self.out,
            self.remember,
        ]
        return np.stack(columns, axis=1).astype(np.float32)


@lru_cache(maxsize=1024)
def plan(schedule: Schedule, start: int = 0) -> SamplingPlan:
    """The steps from `start` to the end of `schedule`. Raises `InvalidInput` if that leaves no step."""
    if not 0 <= start < schedule.steps:
        raise InvalidInput(f"{start} is not a step from 0 to {schedule.steps - 1}", field="start.step")
    step = schedule.solver(schedule, start)
    rows = [_evaluated(schedule.prediction, schedule.timesteps, schedule.alpha, schedule.sigma, step)]
    twice = np.zeros(schedule.steps, dtype=bool)
    if (second := step.second) is not None:
        twice = second.where
        rows.append(_evaluated(schedule.prediction, second.timestep, second.alpha, second.sigma, second.step))
        rows[1]["remember"] = np.full(schedule.steps, float(second.is_remembered))
        rows[1]["grad_scale"] = np.zeros(schedule.steps)
    taken = [(turn, i) for i in range(start, schedule.steps) for turn in range(2 if twice[i] else 1)]
    columns = {name: np.array([rows[turn][name][i] for turn, i in taken]) for name in rows[0]}
    return SamplingPlan(schedule, start, tuple(int(two) + 1 for two in twice[start:]), **columns)


def _evaluated(
    prediction: Prediction, timestep: Floats, alpha: Floats, sigma: Floats, step: Combination
) -> dict[str, Floats]:
    """The columns of `SamplingPlan` by name, each [steps], for evaluations at these levels."""
    x0_x, x0_out = _clean_latent(prediction, alpha, sigma)
    ones, zeros = np.ones_like(alpha), np.zeros_like(alpha)
    match step.remembers:
        case "x0":
            h_x, h_out = x0_x, x0_out
        case "epsilon":
            h_x, h_out = (1 - alpha * x0_x) / sigma, -alpha * x0_out / sigma
        case "output":
            h_x, h_out = zeros, ones
        case "x":
            h_x, h_out = ones, zeros
    x0 = zeros if step.x0 is None else step.x0
    return {
        "timestep": timestep,
        "sigma": sigma / np.maximum(alpha, _LEAST_ALPHA),
        "input_scale": 1 / np.hypot(alpha, sigma),
        "x0_x": x0_x,
        "x0_out": x0_out,
        "h_x": h_x,
        "h_out": h_out,
        "a": step.a + x0 * x0_x,
        "b": step.b,
        "noise": step.noise,
        "grad_scale": _grad_scale(sigma, x0_x),
        "out": x0 * x0_out,
        "remember": ones,
    }


def _clean_latent(prediction: Prediction, alpha: Floats, sigma: Floats) -> tuple[Floats, Floats]:
    """The coefficients of x and of the model's output in x₀, for each step."""
    if prediction == "epsilon":
        return 1 / alpha, -sigma / alpha
    n = np.hypot(alpha, sigma)
    return alpha / n**2, -sigma / n


def _grad_scale(sigma: Floats, x0_x: Floats) -> Floats:
    """By how much x moves against ∂L/∂x₀, so that every sampler moves by the same amount in VE space.

    In VE space the rule is x_ve ← x_ve − σ_ve²·∂L/∂x_ve, with the model's output held fixed, where
    ∂L/∂x_ve = ∂x₀/∂x_ve·∂L/∂x₀: 1·∂L/∂x₀ for ε-prediction, 1/(σ_ve² + 1)·∂L/∂x₀ for v-prediction.
    A sampler in VP space holds x = α·x_ve, so it moves by α times that; and since ∂x₀/∂x_ve = α·∂x₀/∂x,
    its scale is α·σ_ve²·α·x0_x = σ²·x0_x, which is the VE rule again at α = 1.
    """
    return sigma**2 * x0_x


@dataclass(frozen=True)
class Combination:
    """What a solver says of every step: x_next = a·x + x0·x₀ + Σ b[k]·h₋ₖ + noise·z.

    h is what it remembers: ε, x₀, the model's output as it is, or the latents x themselves. All are [steps].
    """

    remembers: Literal["epsilon", "x0", "output", "x"]
    a: Floats
    b: Floats
    noise: Floats
    x0: Floats | None = None
    second: Second | None = None


@dataclass(frozen=True)
class Second:
    """A second evaluation, in the steps `where` it is true, of the x_next that the first one made.

    It is made at the levels `timestep`, `alpha` and `sigma`, and `step` says what becomes of it. To it x is that
    x_next, and h₋₁ is what the first one remembered. All are [steps].
    """

    where: NDArray[np.bool_]
    timestep: Floats
    alpha: Floats
    sigma: Floats
    step: Combination
    is_remembered: bool = True


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


def first_order(schedule: Schedule) -> tuple[Floats, Floats]:
    a = schedule.sigma_next / schedule.sigma
    b = no_history(schedule)
    b[:, 0] = schedule.alpha_next - schedule.alpha * a
    return a, b


def no_history(schedule: Schedule) -> Floats:
    return np.zeros((schedule.steps, 1 + HISTORY))
