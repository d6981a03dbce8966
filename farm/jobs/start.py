"""Where a job's steps start: from noise at the first of them, or later from an encoded image, an *init image*."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, StringConstraints, model_validator

from farm import keys
from farm.errors import InvalidInput
from farm.jobs.wire import Grown, Wire

MAX_STEPS = 1_000

Fit = Literal["crop", "pad", "stretch", "init"]
Encode = Literal["sample", "mean"]

FITS: tuple[Fit, ...] = get_args(Fit)
ENCODINGS: tuple[Encode, ...] = get_args(Encode)

PictureSide = Annotated[int, Field(ge=1, le=2**31)]


class InitReference(Wire):
    """An init image in the bucket, by content; and how large it is in pixels, the right way up."""

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    extension: Literal["png", "jpeg", "webp"]
    width: PictureSide | None = None
    height: PictureSide | None = None

    @property
    def key(self) -> str:
        return keys.init_image(self.sha256, self.extension)


class Start(Grown):
    """Where the loop starts: at step 0 from noise, or at `step` from an encoded image.

    `fit` says what becomes of an image of another shape than the job's; with `init` the job takes the image's shape.
    The autoencoder gives a distribution for it, of which `encode` takes a `sample`, the job's first draw, as diffusers'
    pipelines do, or the `mean`: then the noise is the first draw.
    """

    gained: ClassVar[Mapping[str, Any]] = {"encode": "sample"}

    image: InitReference | None = None
    step: Annotated[int, Field(ge=0, lt=MAX_STEPS)] = 0
    fit: Fit = "crop"
    encode: Encode = "sample"

    @model_validator(mode="after")
    def _noise_starts_at_zero(self) -> Self:
        if self.image is None and self.step:
            raise ValueError("a start step needs an init image")
        return self


def start_step_of_strength(strength: float, steps: int) -> int:
    """The step at which img2img of `strength` in (0, 1] starts, by diffusers' rule: the last ⌊steps·strength⌋ run."""
    if not math.isfinite(strength) or not 0 < strength <= 1:
        raise InvalidInput(f"{strength:g} is not above 0 and up to 1", field="strength")
    if int(steps * strength) == 0:
        raise InvalidInput(
            f"{strength:g} of {steps} steps leaves no step to do",
            field="strength",
            hint=f"use at least {math.ceil(1000 / steps) / 1000:g}, or more steps",
        )
    return steps - int(steps * strength)
