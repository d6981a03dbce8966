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

A step may take a second evaluation of the model, at latents that the first one made (see `steps`): then it is two rows
of the table. The solvers are in `solvers`, `multistep`, `stochastic` and `twice`.

The model's output gives x₀ in either space, with n² = α² + σ²:

    ε-prediction   x₀ = (x − σ·out) / α
    v-prediction   x₀ = α/n²·x − σ/n·out        (Salimans & Ho 2022, arXiv:2202.00512, on x/n)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from farm.errors import InvalidInput
from worker.diffusion.steps import LEAST_ALPHA, Combination, Floats, Prediction, Schedule


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
    KEPT_ALPHA = 16
    """With KEPT_SIGMA, the level that this evaluation leads to: that of the next one; in the end no noise."""
    KEPT_SIGMA = 17


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
    kept_alpha: Floats
    kept_sigma: Floats

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
            self.kept_alpha,
            self.kept_sigma,
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
    columns |= {"kept_alpha": np.append(columns.pop("alpha")[1:], 1.0)}
    columns |= {"kept_sigma": np.append(columns.pop("noise_sigma")[1:], 0.0)}
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
        "alpha": alpha,
        "noise_sigma": sigma,
        "sigma": sigma / np.maximum(alpha, LEAST_ALPHA),
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
