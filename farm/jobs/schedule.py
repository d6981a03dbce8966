"""The numbers of a schedule, as a worker tells them: its noise levels, and what each evaluation of the model weighs.

They may come from anywhere, so they are bounded.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from farm.jobs.samplers import SamplerName, ScheduleName
from farm.jobs.spec import MAX_STEPS

_Word = Annotated[str, StringConstraints(max_length=200)]


class Told(BaseModel):
    """A part of the numbers. What a newer worker says besides is left out."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Level(Told):
    """The noise level from which a step begins, and the σ at which it ends.

    `sigma` is σ/α, the noise as a variance-exploding sampler counts it; `alpha` is what is left of the picture where
    the variance is preserved, 1/√(1 + σ²).
    """

    step: int
    timestep: float
    sigma: float
    alpha: float
    sigma_next: float


class Evaluation(Told):
    """One evaluation of the model: the first or the second of its step, and its coefficients by name.

    x_next = a·x + out·out + b0·h + b1·h₋₁ + b2·h₋₂ + b3·h₋₃ + noise·z, where h = h_x·x + h_out·out is remembered.
    """

    step: int
    evaluation: Annotated[int, Field(ge=1, le=2)]
    coefficients: Annotated[dict[_Word, float], Field(max_length=64)]


class ScheduleTold(Told):
    """All of it. `schedule` is what was asked for, `spacing` how the levels came to be spaced.

    Levels are of all steps; evaluations only of those from `start_step` on, which depend on where a job begins.
    """

    sampler: SamplerName
    schedule: ScheduleName
    spacing: _Word
    eta: float
    prediction: _Word
    steps: int
    start_step: int
    init_scale: float
    """The standard deviation of the noise that a job without an init picture starts from."""
    levels: Annotated[tuple[Level, ...], Field(max_length=MAX_STEPS)]
    evaluations: Annotated[tuple[Evaluation, ...], Field(max_length=2 * MAX_STEPS)]
