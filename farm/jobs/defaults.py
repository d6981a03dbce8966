"""What suits a model, for jobs that do not say: what its `farm.json` tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from farm.errors import InvalidInput
from farm.jobs.faults import invalid
from farm.jobs.framing import FRAMING, Corner, Framing, PixelSize
from farm.jobs.spec import MAX_GUIDANCE

FILE = "farm.json"
MAX_LOSS_SCALE = 1_000.0


@dataclass(frozen=True)
class Defaults:
    """What suits a model, for jobs that do not say."""

    guidance: float = 7.5
    losses: float = 1.0
    """Times the losses' own scales."""
    framing: Mapping[str, PixelSize | Corner] = field(default_factory=dict)
    """What it is told of how a picture was framed, by fields of a job."""


def read_defaults(said: Mapping[str, Any]) -> Defaults:
    """What a `farm.json` says, such as {"guidance": 4.0, "loss_scale": 0.5}; each may be left out.

    A model that is told how a picture was framed may say that too, such as {"original_size": "4096x4096"}.
    Raises `InvalidInput` for what is no number, and for what a job may not say.
    """
    try:
        guidance = float(said.get("guidance", Defaults.guidance))
        losses = float(said.get("loss_scale", Defaults.losses))
        framing = Framing.model_validate({key: said[key] for key in FRAMING if key in said}).told
    except ValidationError as error:
        raise invalid(error) from error
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(str(error)) from error
    for what, number, most in (("guidance", guidance, MAX_GUIDANCE), ("loss_scale", losses, MAX_LOSS_SCALE)):
        if not 0 <= number <= most:
            raise InvalidInput(f"a {what} of {number:g} is not between 0 and {most:g}")
    return Defaults(guidance, losses, framing)
