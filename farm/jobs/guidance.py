"""What a picture is pulled by: classifier-free guidance and loss terms."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from farm.jobs.losses import MAX_ARGUMENTS, MAX_SCALE
from farm.jobs.losses import NAME as LOSS_NAME
from farm.jobs.start import MAX_STEPS
from farm.jobs.wire import Wire

MAX_LOSSES = 8
MAX_GUIDANCE = 100.0

Scale = Annotated[float, Field(ge=-MAX_GUIDANCE, le=MAX_GUIDANCE)]
LossScale = Annotated[float, Field(ge=-MAX_SCALE, le=MAX_SCALE)]
LossName = Annotated[str, StringConstraints(pattern=LOSS_NAME)]
LossArguments = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], float], Field(max_length=MAX_ARGUMENTS)
]
Every = Annotated[int, Field(ge=1, le=MAX_STEPS)]


class LossTerm(Wire):
    """A loss by name, its numbers, its scale (None: what suits the model), and at every which step it is applied."""

    name: LossName
    arguments: LossArguments = Field(default={})
    scale: LossScale | None = None
    every: Every = 5


class Guidance(Wire):
    """Classifier-free guidance scale (None: the model's own; 1: off; 0: the unconditional picture) and loss terms."""

    scale: Scale | None = None
    losses: Annotated[tuple[LossTerm, ...], Field(max_length=MAX_LOSSES)] = ()


class ResolvedLossTerm(LossTerm):
    """A loss whose scale is known."""

    scale: LossScale


class ResolvedGuidance(Guidance):
    """Guidance whose scales are known."""

    scale: Scale
    losses: Annotated[tuple[ResolvedLossTerm, ...], Field(max_length=MAX_LOSSES)] = ()
