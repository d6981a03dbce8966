"""What to render: a `JobSpec` is one image's complete, frozen description, conditioning × start × guidance.

Specs travel as JSON through the ledger and the bucket and are validated again by the worker, so every bound on what
a stranger can ask for is here, or in the modules of its parts and to be had from here.

The modes of pictures are presets of this one spec; they compose. Beside them are *studies*: small
questions that a worker answers from the model that it has, without a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from farm import keys
from farm.errors import InvalidInput
from farm.jobs.conditioning import MAX_CHUNKS as MAX_CHUNKS
from farm.jobs.conditioning import MAX_CLIP_SKIP as MAX_CLIP_SKIP
from farm.jobs.conditioning import MAX_PROMPT_CHARACTERS as MAX_PROMPT_CHARACTERS
from farm.jobs.conditioning import MAX_PROMPTS as MAX_PROMPTS
from farm.jobs.conditioning import MAX_WEIGHT as MAX_WEIGHT
from farm.jobs.conditioning import MIX_PATHS as MIX_PATHS
from farm.jobs.conditioning import READINGS as READINGS
from farm.jobs.conditioning import ClipSkip as ClipSkip
from farm.jobs.conditioning import Conditioning as Conditioning
from farm.jobs.conditioning import MixPath as MixPath
from farm.jobs.conditioning import PromptText as PromptText
from farm.jobs.conditioning import Reading as Reading
from farm.jobs.conditioning import WeightedPrompt as WeightedPrompt
from farm.jobs.faults import invalid
from farm.jobs.framing import FRAMING as FRAMING
from farm.jobs.framing import Corner as Corner
from farm.jobs.framing import PixelSize as PixelSize
from farm.jobs.guidance import MAX_GUIDANCE as MAX_GUIDANCE
from farm.jobs.guidance import MAX_LOSSES as MAX_LOSSES
from farm.jobs.guidance import Every as Every
from farm.jobs.guidance import Guidance as Guidance
from farm.jobs.guidance import LossArguments as LossArguments
from farm.jobs.guidance import LossName as LossName
from farm.jobs.guidance import LossScale as LossScale
from farm.jobs.guidance import LossTerm as LossTerm
from farm.jobs.guidance import ResolvedGuidance as ResolvedGuidance
from farm.jobs.guidance import ResolvedLossTerm as ResolvedLossTerm
from farm.jobs.guidance import Scale as Scale
from farm.jobs.loras import MAX_LORAS as MAX_LORAS
from farm.jobs.loras import LoraUse as LoraUse
from farm.jobs.samplers import SAMPLERS as SAMPLERS
from farm.jobs.samplers import SCHEDULES as SCHEDULES
from farm.jobs.samplers import SamplerName as SamplerName
from farm.jobs.samplers import ScheduleName as ScheduleName
from farm.jobs.samplers import fault
from farm.jobs.start import ENCODINGS as ENCODINGS
from farm.jobs.start import FILLS as FILLS
from farm.jobs.start import FITS as FITS
from farm.jobs.start import MAX_STEPS as MAX_STEPS
from farm.jobs.start import Encode as Encode
from farm.jobs.start import Fill as Fill
from farm.jobs.start import Fit as Fit
from farm.jobs.start import InitReference as InitReference
from farm.jobs.start import MaskBlur as MaskBlur
from farm.jobs.start import Outpaint as Outpaint
from farm.jobs.start import Padding as Padding
from farm.jobs.start import Redo as Redo
from farm.jobs.start import Start as Start
from farm.jobs.wire import Grown, Wire

MIN_SIDE, MAX_SIDE = 64, 2_048
MAX_SEED = 2**63 - 1
MAX_LABELS = 16
MAX_NOISE_STEPS = 16

Study = Literal["roundtrip", "tokens", "similar", "schedule"]
Mode = Literal["txt2img", "img2img", "mix", "guided", Study]
TraceLevel = Literal["none", "numbers", "frames", "video"]

STUDIES: tuple[Study, ...] = get_args(Study)
MODES: tuple[Mode, ...] = get_args(Mode)
TRACE_LEVELS: tuple[TraceLevel, ...] = get_args(TraceLevel)


def _names_a_model(value: str) -> str:
    try:
        return keys.model_name(value)
    except InvalidInput as error:
        raise ValueError(f"{error.reason} ({error.hint})") from error


ModelName = Annotated[str, AfterValidator(_names_a_model)]
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE, multiple_of=8)]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Eta = Annotated[float, Field(ge=0, le=1)]
Priority = Annotated[int, Field(ge=0, le=9)]
TimeLimit = Annotated[float, Field(gt=0, le=7 * 24 * 3600)]
Labels = dict[
    Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")],
    Annotated[str, StringConstraints(max_length=200)],
]


class Trace(Wire):
    """What is kept of the way to the picture: nothing, numbers, frames too, or a video too; every n-th step."""

    level: TraceLevel = "none"
    every: Every = 1


class JobSpec(Grown):
    """One image, completely. `width`, `height` and the guidance scale may be None: the model's own.

    `schedule` says how noise levels are spaced (`model`: as the model does), and `eta` how much of the noise that its
    steps may add the sampler adds (None: as much as it does of itself).

    Or one study: `tokens` of a prompt, how `similar` prompts are, a `roundtrip` of the init image through the
    autoencoder, also with the noise of `noise_steps`, or the `schedule` of a sampler.

    `loras` add up, in any order, and each is there once.

    `original_size`, `crop` and `target_size` are what a model of SDXL is told of the picture (see `farm.jobs.framing`);
    None: the model's own, or else an original of the picture's size, of which nothing was cut off.
    """

    gained: ClassVar[Mapping[str, Any]] = {
        **{"schedule": "model", "eta": None, "noise_steps": (), "loras": ()},
        **dict.fromkeys(FRAMING),
    }

    mode: Mode
    model: ModelName
    conditioning: Conditioning
    start: Start = Start()
    guidance: Guidance = Guidance()
    sampler: SamplerName = "lms"
    schedule: ScheduleName = "model"
    eta: Eta | None = None
    steps: Steps
    seed: Seed
    width: Side | None = None
    height: Side | None = None
    trace: Trace = Trace()
    time_limit: TimeLimit | None = None
    noise_steps: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=MAX_STEPS)], ...], Field(max_length=MAX_NOISE_STEPS)
    ] = ()
    loras: Annotated[tuple[LoraUse, ...], Field(max_length=MAX_LORAS)] = ()
    original_size: PixelSize | None = None
    crop: Corner | None = None
    target_size: PixelSize | None = None

    @model_validator(mode="after")
    def _sampler_can_do_it(self) -> Self:
        if (why := fault(self.sampler, self.schedule, self.eta)) is not None:
            raise ValueError(str(why))
        return self

    @model_validator(mode="after")
    def _starts_before_the_end(self) -> Self:
        if self.start.step >= self.steps:
            raise ValueError(f"the start step {self.start.step} leaves none of the {self.steps} steps to do")
        return self

    @model_validator(mode="after")
    def _asks_what_its_mode_answers(self) -> Self:
        if fault := _fault_of(self):
            raise ValueError(fault)
        return self

    @model_validator(mode="after")
    def _names_each_lora_once(self) -> Self:
        names = [use.name for use in self.loras]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"the LoRA '{twice[0]}' is there twice")
        return self

    @property
    def is_study(self) -> bool:
        """Whether it asks something of the model, and takes no step."""
        return self.mode in STUDIES

    @property
    def has_picture(self) -> bool:
        return not self.is_study or self.mode == "roundtrip"

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """Width and height of the result, which may be others than those rendered; None if they are not known."""
        if self.start.keeps_size:
            return self.start.canvas
        return (self.width, self.height) if self.width and self.height else None

    @property
    def framing(self) -> Mapping[str, PixelSize | Corner]:
        """What it says of how the picture was framed, by field."""
        return {field: told for field in FRAMING if (told := getattr(self, field)) is not None}

    @property
    def steps_to_do(self) -> int:
        return 1 if self.is_study else self.steps - self.start.step

    @property
    def prompt(self) -> str:
        """The prompts as one line for people, or what is asked where there are none."""
        between = " | " if self.mode == "similar" else " + "
        return (
            f"({self.mode})" if reads_no_prompt(self.mode) else between.join(p.text for p in self.conditioning.prompts)
        )

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


def reads_no_prompt(mode: Mode) -> bool:
    return mode in ("roundtrip", "schedule")


def _fault_of(spec: JobSpec) -> str | None:
    """What of a spec its mode cannot have."""
    prompts, start = spec.conditioning.prompts, spec.start
    if spec.noise_steps and spec.mode != "roundtrip":
        return f"noise steps are of a roundtrip, not of {spec.mode}"
    if not spec.is_study:
        return None
    if spec.guidance.losses or spec.conditioning.negative or spec.trace.level != "none" or start.step or spec.loras:
        return f"{spec.mode} takes no step: it has no losses, LoRAs, negative prompt, trace or start step"
    if spec.framing:
        return f"{spec.mode} takes no step: it has no {next(iter(spec.framing)).replace('_', ' ')}"
    if (start.image is not None) != (spec.mode == "roundtrip"):
        return "roundtrip needs an init image" if start.image is None else f"{spec.mode} has no init image"
    if start.is_masked:
        return f"{spec.mode} redoes nothing: it has no mask"
    if spec.mode == "similar" and len(prompts) < 2:
        return "similar compares two prompts or more"
    if spec.mode != "similar" and len(prompts) > 1:
        return f"{spec.mode} is of one prompt, not of {len(prompts)}"
    late = [step for step in spec.noise_steps if step >= spec.steps]
    return f"the noise step {late[0]} is not one of the {spec.steps} steps" if late else None


class ResolvedSpec(JobSpec):
    """A spec that leaves nothing to the model any more. As JSON it is what a `JobSpec` of the same values is."""

    guidance: ResolvedGuidance
    width: Side
    height: Side

    @classmethod
    def of(
        cls,
        spec: JobSpec,
        *,
        width: int,
        height: int,
        scale: float,
        loss_scales: Mapping[str, float] | None = None,
        framing: Mapping[str, PixelSize | Corner] | None = None,
    ) -> ResolvedSpec:
        """`spec` with this size and guidance scale; and the losses' own scales, by name, and this framing, by field,
        where it says none.

        Raises `InvalidInput` naming the field at fault.
        """
        own = loss_scales or {}
        try:
            losses = [
                {**dict(term), "scale": own.get(term.name) if term.scale is None else term.scale}
                for term in spec.guidance.losses
            ]
            guidance = ResolvedGuidance.model_validate({"scale": scale, "losses": losses})
            known = {"guidance": guidance, "width": width, "height": height, **(framing or {}), **spec.framing}
            return cls.model_validate({**dict(spec), **known})
        except ValidationError as error:
            raise invalid(error) from error
