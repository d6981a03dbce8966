"""A schedule, and what a solver says of its steps: each is one linear combination of what is at hand. See `plans`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from farm.jobs.spec import SamplerName

HISTORY = 3
"""How many older entries of h a step may use."""
LEAST_ALPHA = 2.0**-12
"""The least signal that a noise level is told of, so that it stays finite."""

Floats = NDArray[np.float64]
Prediction = Literal["epsilon", "v_prediction"]
Solver = Callable[["Schedule", int], "Combination"]
"""A sampler's mathematics: what every step of a schedule combines, for a job that starts at this step."""


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
        return self.sigma / np.maximum(self.alpha, LEAST_ALPHA)


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


def first_order(schedule: Schedule) -> tuple[Floats, Floats]:
    a = schedule.sigma_next / schedule.sigma
    b = no_history(schedule)
    b[:, 0] = schedule.alpha_next - schedule.alpha * a
    return a, b


def no_history(schedule: Schedule) -> Floats:
    return np.zeros((schedule.steps, 1 + HISTORY))
