"""Where a job's steps start: from noise at the first of them, or later from an encoded image, an *init image*; and what
of that is redone, if it is not all."""

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
Redo = Literal["white", "black"]
Fill = Literal["original", "noise", "blur"]

FITS: tuple[Fit, ...] = get_args(Fit)
ENCODINGS: tuple[Encode, ...] = get_args(Encode)
FILLS: tuple[Fill, ...] = get_args(Fill)

MASK_BLUR = 4
MAX_BLUR = 256
MAX_PADDING = MAX_GROWTH = 2_048

PictureSide = Annotated[int, Field(ge=1, le=2**31)]


MaskBlur = Annotated[int, Field(ge=0, le=MAX_BLUR)]
Padding = Annotated[int, Field(ge=0, le=MAX_PADDING)]
Growth = Annotated[int, Field(ge=0, le=MAX_GROWTH)]


class InitReference(Wire):
    """An init image (or a mask) in the bucket, by content; and how large it is in pixels, the right way up."""

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    extension: Literal["png", "jpeg", "webp"]
    width: PictureSide | None = None
    height: PictureSide | None = None

    @property
    def key(self) -> str:
        return keys.init_image(self.sha256, self.extension)


class Outpaint(Wire):
    """By how many pixels an init image grows on each side."""

    left: Growth = 0
    top: Growth = 0
    right: Growth = 0
    bottom: Growth = 0

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if not any((self.left, self.top, self.right, self.bottom)):
            raise ValueError("the picture grows on no side; write how many pixels, such as left=128")
        return self

    def __str__(self) -> str:
        return ",".join(f"{side}={pixels}" for side, pixels in self if pixels)


class Start(Grown):
    """Where the loop starts: at step 0 from noise, or at `step` from an encoded image.

    `fit` says what becomes of an image of another shape than the job's; with `init` the job takes the image's shape.
    The autoencoder gives a distribution for it, of which `encode` takes a `sample`, the job's first draw, as diffusers'
    pipelines do, or the `mean`: then the noise is the first draw.

    Of an image with a `mask` only what is white in it (or black, as `redo` says) is redone, grey partly, and so is all
    that an `outpaint` adds; the rest stays as it is. The seam is blended by blurring the mask, before it is fitted: the
    radius, a standard deviation, is `mask_blur` of the image's pixels. Steps begin with what the image has there, with
    noise, or with the colours around it (`fill`). With `only_masked` the mask's box and so many pixels around it are
    rendered at the job's size, and put back where they were.
    """

    gained: ClassVar[Mapping[str, Any]] = {
        "encode": "sample",
        "mask": None,
        "redo": "white",
        "mask_blur": MASK_BLUR,
        "fill": "original",
        "only_masked": None,
        "outpaint": None,
    }

    image: InitReference | None = None
    step: Annotated[int, Field(ge=0, lt=MAX_STEPS)] = 0
    fit: Fit = "crop"
    encode: Encode = "sample"
    mask: InitReference | None = None
    redo: Redo = "white"
    mask_blur: MaskBlur = MASK_BLUR
    fill: Fill = "original"
    only_masked: Padding | None = None
    outpaint: Outpaint | None = None

    @model_validator(mode="after")
    def _noise_starts_at_zero(self) -> Self:
        if self.image is None and self.step:
            raise ValueError("a start step needs an init image")
        return self

    @model_validator(mode="after")
    def _masks_an_image(self) -> Self:
        if self.image is None and self.is_masked:
            raise ValueError("a mask needs an init image")
        if not self.is_masked and (self.fill != "original" or self.only_masked is not None):
            raise ValueError("nothing is masked that could be filled, or rendered alone")
        return self

    @property
    def is_masked(self) -> bool:
        """Whether a part of the image stays as it is."""
        return self.mask is not None or self.outpaint is not None

    @property
    def keeps_size(self) -> bool:
        """Whether the result has the size of the canvas, and not the job's: only a part was rendered, or it grew."""
        return self.only_masked is not None or self.outpaint is not None

    @property
    def canvas(self) -> tuple[int, int] | None:
        """Width and height of the image with what is added to it; None if they are not known."""
        image, grown = self.image, self.outpaint
        if image is None or image.width is None or image.height is None:
            return None
        if grown is None:
            return image.width, image.height
        return image.width + grown.left + grown.right, image.height + grown.top + grown.bottom


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


def strength_of(steps_to_do: int, steps: int) -> float:
    """The least strength, in ten thousandths, with which `start_step_of_strength` leaves so many of the steps to do."""
    parts = 10_000 * steps_to_do // steps
    while int(steps * (parts / 10_000)) < steps_to_do:
        parts += 1
    return parts / 10_000
