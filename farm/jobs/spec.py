"""What to render: a `JobSpec` is one image's complete, frozen description, conditioning × start × guidance.

Specs travel as JSON through the ledger and the bucket and are validated again by the worker, so every
bound on what a stranger can ask for is here. The four modes are presets of this one spec; they compose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from farm import keys
from farm.errors import InvalidInput
from farm.jobs import emphasis
from farm.jobs.faults import invalid
from farm.jobs.losses import MAX_ARGUMENTS, MAX_SCALE
from farm.jobs.losses import NAME as LOSS_NAME

MAX_PROMPT_CHARACTERS = 4_000
MAX_PROMPTS = 16
MAX_WEIGHT = 100.0
MAX_LOSSES = 8
MAX_STEPS = 1_000
MIN_SIDE, MAX_SIDE = 64, 2_048
MAX_SEED = 2**63 - 1
MAX_GUIDANCE = 100.0
MAX_LABELS = 16
MAX_CLIP_SKIP = 12
MAX_CHUNKS = 80
"""Of 75 tokens. 4,000 characters are 4,000 tokens at the most in English, in chunks that commas end 20 tokens early."""

Mode = Literal["txt2img", "img2img", "mix", "guided"]
SamplerName = Literal["lms", "euler", "euler_a", "ddim", "dpmpp_2m"]
Fit = Literal["crop", "pad", "stretch", "init"]
Encode = Literal["sample", "mean"]
Reading = Literal["weighted", "plain"]
TraceLevel = Literal["none", "numbers", "frames", "video"]

MODES: tuple[Mode, ...] = get_args(Mode)
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
FITS: tuple[Fit, ...] = get_args(Fit)
ENCODINGS: tuple[Encode, ...] = get_args(Encode)
READINGS: tuple[Reading, ...] = get_args(Reading)
TRACE_LEVELS: tuple[TraceLevel, ...] = get_args(TraceLevel)

PromptText = Annotated[str, StringConstraints(max_length=MAX_PROMPT_CHARACTERS)]


def _names_a_model(value: str) -> str:
    try:
        return keys.model_name(value)
    except InvalidInput as error:
        raise ValueError(f"{error.reason} ({error.hint})") from error


ModelName = Annotated[str, AfterValidator(_names_a_model)]
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE, multiple_of=8)]
PictureSide = Annotated[int, Field(ge=1, le=2**31)]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Scale = Annotated[float, Field(ge=-MAX_GUIDANCE, le=MAX_GUIDANCE)]
ClipSkip = Annotated[int, Field(ge=1, le=MAX_CLIP_SKIP)]
Priority = Annotated[int, Field(ge=0, le=9)]
LossScale = Annotated[float, Field(ge=-MAX_SCALE, le=MAX_SCALE)]
LossName = Annotated[str, StringConstraints(pattern=LOSS_NAME)]
LossArguments = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], float], Field(max_length=MAX_ARGUMENTS)
]
Every = Annotated[int, Field(ge=1, le=MAX_STEPS)]
TimeLimit = Annotated[float, Field(gt=0, le=7 * 24 * 3600)]
Labels = dict[
    Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")],
    Annotated[str, StringConstraints(max_length=200)],
]


class Wire(BaseModel):
    """A frozen value that crosses a process: unknown fields, NaN, infinities and booleans are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_one(cls, value: Any) -> Any:
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else (value,):
            if isinstance(part, bool):
                word = str(part).lower()
                raise ValueError(f'{word} is neither a number nor text; for the word write "{word}"')
        return value


class WeightedPrompt(Wire):
    """One prompt of a mix. Weights of a spec's prompts sum to one."""

    text: PromptText
    weight: Annotated[float, Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT)] = 1.0


class Conditioning(Wire):
    """What the picture shows: Σ weight·embedding(text), against the negative prompt.

    A `weighted` reading of the texts knows weights, BREAK and embeddings (see `farm.jobs.emphasis`) and drops no word;
    a `plain` one is diffusers': every sign is a letter, and what the encoder does not take at once is cut off.
    `clip_skip` counts the text encoder's layers from its end, as A1111 does; 1 is the model's own.
    """

    prompts: Annotated[tuple[WeightedPrompt, ...], Field(min_length=1, max_length=MAX_PROMPTS)]
    negative: PromptText = ""
    reading: Reading = "plain"
    clip_skip: ClipSkip = 1

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        if self.reading == "weighted":
            for text in (*(prompt.text for prompt in self.prompts), self.negative):
                try:
                    emphasis.sections(text)
                except InvalidInput as error:
                    raise ValueError(str(error)) from error
        return self

    @model_serializer(mode="wrap")
    def _as_it_was_before_there_was_a_choice(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A spec that does not say how its prompts are read is of an earlier version, which read them plainly."""
        fields: dict[str, Any] = serialize(self)
        left_out = (("reading", "plain"), ("clip_skip", 1))
        return {name: value for name, value in fields.items() if (name, value) not in left_out}


class InitReference(Wire):
    """An init image in the bucket, by content; and how large it is in pixels, the right way up."""

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    extension: Literal["png", "jpeg", "webp"]
    width: PictureSide | None = None
    height: PictureSide | None = None

    @property
    def key(self) -> str:
        return keys.init_image(self.sha256, self.extension)


class Start(Wire):
    """Where the loop starts: at step 0 from noise, or at `step` from an encoded image.

    `fit` says what becomes of an image of another shape than the job's; with `init` the job takes the image's shape.
    The autoencoder gives a distribution for it, of which `encode` takes a `sample`, the job's first draw, as diffusers'
    pipelines do, or the `mean`: then the noise is the first draw.
    """

    image: InitReference | None = None
    step: Annotated[int, Field(ge=0, lt=MAX_STEPS)] = 0
    fit: Fit = "crop"
    encode: Encode = "sample"

    @model_validator(mode="after")
    def _noise_starts_at_zero(self) -> Self:
        if self.image is None and self.step:
            raise ValueError("a start step needs an init image")
        return self

    @model_serializer(mode="wrap")
    def _as_it_was_before_there_was_a_choice(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Most jobs have no use for `encode`, so their specs are what earlier versions read and wrote."""
        fields: dict[str, Any] = serialize(self)
        return {name: value for name, value in fields.items() if (name, value) != ("encode", "sample")}


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


class Trace(Wire):
    """What is kept of the way to the picture: nothing, numbers, frames too, or a video too; every n-th step."""

    level: TraceLevel = "none"
    every: Every = 1


class JobSpec(Wire):
    """One image, completely. `width`, `height` and the guidance scale may be None: the model's own."""

    mode: Mode
    model: ModelName
    conditioning: Conditioning
    start: Start = Start()
    guidance: Guidance = Guidance()
    sampler: SamplerName = "lms"
    steps: Steps
    seed: Seed
    width: Side | None = None
    height: Side | None = None
    trace: Trace = Trace()
    time_limit: TimeLimit | None = None

    @model_validator(mode="after")
    def _starts_before_the_end(self) -> Self:
        if self.start.step >= self.steps:
            raise ValueError(f"the start step {self.start.step} leaves none of the {self.steps} steps to do")
        return self

    @property
    def steps_to_do(self) -> int:
        return self.steps - self.start.step

    @property
    def prompt(self) -> str:
        """The prompts as one line for people."""
        return " + ".join(prompt.text for prompt in self.conditioning.prompts)

    def of_model(self, name: str) -> Self:
        """The same of the model of this name. Raises `InvalidInput` if none can have it."""
        if name == self.model:
            return self
        try:
            return self.model_validate({**dict(self), "model": name})
        except ValidationError as error:
            raise invalid(error) from error

    def to_json(self) -> str:
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The spec in `text`. Raises `InvalidInput` naming the field at fault."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise invalid(error) from error


class ResolvedLossTerm(LossTerm):
    """A loss whose scale is known."""

    scale: LossScale


class ResolvedGuidance(Guidance):
    """Guidance whose scales are known."""

    scale: Scale
    losses: Annotated[tuple[ResolvedLossTerm, ...], Field(max_length=MAX_LOSSES)] = ()


class ResolvedSpec(JobSpec):
    """A spec that leaves nothing to the model any more. As JSON it is what a `JobSpec` of the same values is."""

    guidance: ResolvedGuidance
    width: Side
    height: Side

    @classmethod
    def of(
        cls, spec: JobSpec, *, width: int, height: int, scale: float, loss_scales: Mapping[str, float] | None = None
    ) -> ResolvedSpec:
        """`spec` with this size and guidance scale, and the losses' own scales, by name, where it says none.

        Raises `InvalidInput` naming the field at fault.
        """
        own = loss_scales or {}
        try:
            losses = [
                {**dict(term), "scale": own.get(term.name) if term.scale is None else term.scale}
                for term in spec.guidance.losses
            ]
            guidance = ResolvedGuidance.model_validate({"scale": scale, "losses": losses})
            return cls.model_validate({**dict(spec), "guidance": guidance, "width": width, "height": height})
        except ValidationError as error:
            raise invalid(error) from error


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
