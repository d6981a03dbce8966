"""What can be asked for: the fields of a request, what each may be, and which of them go together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainValidator, field_validator, model_validator

from farm.jobs.asked import Asked, LoraRequest, LossRequest, MixTerm, Written
from farm.jobs.framing import WrittenCorner, WrittenSize
from farm.jobs.loras import MAX_LORAS
from farm.jobs.samplers import SamplerName, ScheduleName, fault
from farm.jobs.spec import (
    MAX_LOSSES,
    MAX_NOISE_STEPS,
    MAX_PROMPTS,
    MAX_STEPS,
    MAX_WEIGHT,
    STUDIES,
    ClipSkip,
    Encode,
    Eta,
    Every,
    Fill,
    Fit,
    Labels,
    MaskBlur,
    MixPath,
    Mode,
    ModelName,
    Outpaint,
    Padding,
    Priority,
    Reading,
    Redo,
    Scale,
    Seed,
    Side,
    Steps,
    TimeLimit,
    TraceLevel,
)
from farm.jobs.studies import as_read
from farm.jobs.writing import (
    as_init,
    as_labels,
    as_mask,
    as_outpaint,
    as_prompts,
    as_sampler,
    as_schedule,
    random_if_asked,
    with_schedule,
)

DEFAULT_STEPS = 30
DEFAULT_PRIORITY = 5
MAX_COUNT = 10_000


class Wanted(Asked):
    """The fields of a request, each checked by itself and beside the others."""

    mode: Mode = "txt2img"
    prompt: Annotated[str | tuple[str, ...], PlainValidator(as_prompts)]
    weights: tuple[float, ...] | None = None
    mix: Annotated[float, Field(ge=1 - MAX_WEIGHT, le=MAX_WEIGHT)] | None = None
    """The first prompt's share of two; beyond 0 to 1 the mix goes on past one of them."""
    path: MixPath = "linear"
    """From one of two prompts to the other: straight, or along the arc between their embeddings."""
    mix_with: Annotated[tuple[MixTerm, ...], Field(max_length=MAX_PROMPTS - 1)] = ()
    negative: Written = ""
    reading: Reading = "weighted"
    """How the prompts are read: with weights, BREAK and embeddings, or every sign of them as a letter."""
    clip_skip: ClipSkip = 1
    init: Annotated[Path | bytes | None, PlainValidator(as_init)] = None
    """The file of a picture to start from, or all of its bytes."""
    start_step: Annotated[int, Field(ge=0)] | None = None
    strength: float | None = None
    fit: Fit | None = None
    encode: Encode | None = None
    mask: Annotated[Path | bytes | Literal["alpha"] | None, PlainValidator(as_mask)] = None
    """The file of a picture that is white where the init picture is redone, or all of its bytes; or `alpha`: what is
    transparent in the init picture is redone."""
    redo: Redo | None = None
    """What of the mask is redone: what is white in it, or what is black."""
    mask_blur: MaskBlur | None = None
    """Radius of the Gaussian blur that blends the seam, in pixels of the init picture."""
    fill: Fill | None = None
    """What the steps begin with where the picture is redone."""
    only_masked: Padding | None = None
    """Render only the mask's box, with so many pixels around it, at the job's size."""
    outpaint: Annotated[Outpaint | None, BeforeValidator(as_outpaint)] = None
    """By how many pixels the init picture grows on each side."""
    losses: Annotated[tuple[LossRequest, ...], Field(max_length=MAX_LOSSES)] = ()
    loras: Annotated[tuple[LoraRequest, ...], Field(max_length=MAX_LORAS)] = ()
    """Besides those that tags of weighted prompts name. One that is named twice has the sum of its weights."""
    guidance: Scale | None = None
    sampler: Annotated[SamplerName, BeforeValidator(as_sampler)] = "lms"
    """By any name that A1111 or ComfyUI has for it; `DPM++ 2M Karras` says a schedule as well."""
    schedule: Annotated[ScheduleName, BeforeValidator(as_schedule)] = "model"
    eta: Eta | None = None
    steps: Steps = DEFAULT_STEPS
    seed: Annotated[Seed | None, BeforeValidator(random_if_asked)] = None
    count: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 1
    width: Side | None = None
    height: Side | None = None
    original_size: WrittenSize | None = None
    """How large the picture's original was, as a model of SDXL is told; the picture's own size if nothing is said."""
    crop: WrittenCorner | None = None
    """How many pixels of that were cut off on the left and above, as it is told."""
    target_size: WrittenSize | None = None
    """To what size it was cut, as it is told."""
    model: ModelName | None = None
    priority: Priority = DEFAULT_PRIORITY
    trace: TraceLevel = "none"
    trace_every: Every = 1
    time_limit: TimeLimit | None = None
    labels: Labels = Field(default={}, max_length=16)
    noise_steps: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=MAX_STEPS)], ...], Field(max_length=MAX_NOISE_STEPS)
    ] = ()
    """Of a roundtrip: steps of the schedule whose noise is added to the latents before they are decoded as well."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts, even when there is only one."""
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt

    @property
    def is_masked(self) -> bool:
        """Whether a part of the init picture stays as it is."""
        return self.mask is not None or self.outpaint is not None

    @property
    def _of_a_mask(self) -> list[str]:
        """Options that are given and say something of a mask."""
        said = {"mask-blur": self.mask_blur, "fill": self.fill, "only-masked": self.only_masked}
        return [option for option, value in said.items() if value is not None]

    @field_validator("noise_steps")
    @classmethod
    def _each_once(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(steps))

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_are_text(cls, value: Any) -> Any:
        return as_labels(value)

    @model_validator(mode="before")
    @classmethod
    def _as_its_mode_reads_it(cls, fields: Any) -> Any:
        """A study goes first, and need not be given what it does not read; nor may it be."""
        if not isinstance(fields, dict) or fields.get("mode") not in STUDIES:
            return fields
        return as_read(fields["mode"], fields, {name: known.default for name, known in cls.model_fields.items()})

    @model_validator(mode="before")
    @classmethod
    def _sampler_says_its_schedule(cls, fields: Any) -> Any:
        return with_schedule(fields) if isinstance(fields, dict) else fields

    @model_validator(mode="after")
    def _sampler_can_do_it(self) -> Self:
        if (why := fault(self.sampler, self.schedule, self.eta)) is not None:
            raise why
        return self

    @model_validator(mode="after")
    def _has_what_its_mode_needs(self) -> Self:
        if self.mode == "img2img" and self.init is None:
            raise ValueError("img2img needs an init image: give --init FILE")
        if self.mode == "roundtrip" and self.init is None:
            raise ValueError("roundtrip needs a picture: give --init FILE")
        if self.mode == "similar" and len(self.prompts) < 2:
            raise ValueError("similar compares two prompts or more")
        if self.noise_steps and self.mode != "roundtrip":
            raise ValueError(f"noise steps are of a roundtrip, not of {self.mode}")
        if late := [step for step in self.noise_steps if step >= self.steps]:
            raise ValueError(f"the noise step {late[0]} is not one of the {self.steps} steps, 0 to {self.steps - 1}")
        if self.path == "spherical" and len(self.prompts) + len(self.mix_with) != 2:
            raise ValueError("the spherical path goes between exactly two prompts")
        if self.mode == "mix" and len(self.prompts) + len(self.mix_with) < 2:
            raise ValueError("mix needs at least two prompts")
        if self.mode == "guided" and not self.losses:
            raise ValueError("guided needs a loss: give --loss NAME ('farm losses' lists them)")
        return self

    @model_validator(mode="after")
    def _starts_from_a_picture_that_is_there(self) -> Self:
        if self.init is None and (self.start_step is not None or self.strength is not None):
            raise ValueError("--start-step and --strength need an init image: give --init FILE")
        if self.init is None and self.fit is not None:
            raise ValueError("--fit needs an init image: give --init FILE")
        if self.init is None and self.encode is not None:
            raise ValueError("--encode needs an init image: give --init FILE")
        if self.init is None and (self.mask is not None or self.outpaint is not None):
            raise ValueError("--mask and --outpaint need an init image: give --init FILE")
        if self.mask is None and self.redo is not None:
            raise ValueError("--invert-mask needs a mask: give --mask FILE")
        if not self.is_masked and self._of_a_mask:
            raise ValueError(f"--{self._of_a_mask[0]} needs a mask: give --mask FILE or --outpaint SIDE=PIXELS")
        if self.fit is not None and (self.only_masked is not None or self.outpaint is not None):
            raise ValueError("--only-masked and --outpaint keep the picture as it is: leave out --fit")
        if self.fit == "init" and (self.width is not None or self.height is not None):
            raise ValueError("--fit init takes the size from the picture: leave out --width and --height")
        if self.start_step is not None and self.strength is not None:
            raise ValueError("give --start-step or --strength, not both")
        return self

    @model_validator(mode="after")
    def _mixes_by_one_measure(self) -> Self:
        if self.mix is not None and self.weights is not None:
            raise ValueError("give --mix or --weights, not both")
        if self.mix is not None and len(self.prompts) != 2:
            raise ValueError("--mix goes with exactly two prompts; give --weights for more")
        if self.weights is not None and len(self.weights) != len(self.prompts):
            raise ValueError(f"there are {len(self.prompts)} prompts, and {len(self.weights)} of --weights")
        return self
