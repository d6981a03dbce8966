"""What a person asks for: a flat `JobRequest`, as the command line and batch files give it.

A request becomes specs by resolving what was left open (weights, strength, loss arguments, seeds), so
that a spec says exactly what is rendered. Bad input fails here, naming the option, before any
connection is opened.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationError,
    field_validator,
    model_validator,
)

from farm.errors import InvalidInput
from farm.jobs import emphasis, tags
from farm.jobs.asked import Asked, Written
from farm.jobs.asked import LoraRequest as LoraRequest
from farm.jobs.asked import LossRequest as LossRequest
from farm.jobs.asked import MixTerm as MixTerm
from farm.jobs.faults import invalid
from farm.jobs.loras import MAX_LORAS, LoraUse, added_up
from farm.jobs.losses import BUILTIN, LossDeclaration
from farm.jobs.mixing import weighted
from farm.jobs.samplers import SamplerName, ScheduleName, fault
from farm.jobs.spec import (
    MAX_LOSSES,
    MAX_NOISE_STEPS,
    MAX_PROMPTS,
    MAX_SEED,
    MAX_STEPS,
    MAX_WEIGHT,
    STUDIES,
    ClipSkip,
    Conditioning,
    Encode,
    Eta,
    Every,
    Fill,
    Fit,
    Guidance,
    InitReference,
    JobSpec,
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
    Start,
    Steps,
    TimeLimit,
    Trace,
    TraceLevel,
)
from farm.jobs.start import MASK_BLUR, start_step_of_strength
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


class JobRequest(Asked):
    """What one submission asks for: `count` images with consecutive seeds."""

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
    """Pixels over which the seam is blended."""
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
    def _blur(self) -> int:
        """A picture that grows is not touched, unless that is asked for."""
        return MASK_BLUR if self.outpaint is None else 0

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

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> JobRequest:
        """A request from plain fields. Raises `InvalidInput` naming the field at fault."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise invalid(error) from error

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
        if self.mix is not None and self.weights is not None:
            raise ValueError("give --mix or --weights, not both")
        if self.mix is not None and len(self.prompts) != 2:
            raise ValueError("--mix goes with exactly two prompts; give --weights for more")
        if self.weights is not None and len(self.weights) != len(self.prompts):
            raise ValueError(f"there are {len(self.prompts)} prompts and {len(self.weights)} weights")
        return self

    def specs(
        self,
        init: InitReference | None,
        *,
        default_model: str,
        declarations: Iterable[LossDeclaration] = BUILTIN,
        mask: InitReference | None = None,
    ) -> list[JobSpec]:
        """The `count` specs of this request; without a `mask` that of one for which there is nothing to keep.

        Raises `InvalidInput`.
        """
        prompts, mix_with, loras = self._read_tags()
        self._check_prompts()
        declarations = tuple(declarations)
        first_seed = secrets.randbits(32) if self.seed is None else self.seed
        if first_seed + self.count - 1 > MAX_SEED:
            raise InvalidInput(f"{first_seed} + {self.count} goes beyond {MAX_SEED}", field="seed")
        try:
            first = JobSpec(
                mode=self.mode,
                model=self.model or default_model,
                conditioning=Conditioning(
                    prompts=weighted(prompts, weights=self.weights, mix=self.mix, mix_with=mix_with),
                    negative=self.negative,
                    path=self.path,
                    reading=self.reading,
                    clip_skip=self.clip_skip,
                ),
                start=self._start(init, mask),
                guidance=Guidance(scale=self.guidance, losses=tuple(loss.term(declarations) for loss in self.losses)),
                sampler=self.sampler,
                schedule=self.schedule,
                eta=self.eta,
                steps=self.steps,
                seed=first_seed,
                width=self.width,
                height=self.height,
                trace=Trace(level=self.trace, every=self.trace_every),
                time_limit=self.time_limit,
                noise_steps=self.noise_steps,
                loras=added_up(loras),
            )
        except ValidationError as error:
            raise invalid(error) from error
        return [first.model_copy(update={"seed": first_seed + index}) for index in range(self.count)]

    def _read_tags(self) -> tuple[tuple[str, ...], tuple[MixTerm, ...], tuple[LoraUse, ...]]:
        """The prompts and further prompts without their tags, and all LoRAs that are named, whichever way.

        The negative prompt has none, as in A1111. Raises `InvalidInput` naming the field of a tag that cannot be read.
        """
        asked = tuple(lora.use for lora in self.loras)
        if self.reading == "plain":
            return self.prompts, self.mix_with, asked
        own = [_untagged("prompt", text) for text in self.prompts]
        further = [_untagged("mix_with", term.prompt) for term in self.mix_with]
        terms = tuple(
            term.model_copy(update={"prompt": text}) for term, (text, _) in zip(self.mix_with, further, strict=True)
        )
        named = tuple(use for _, uses in (*own, *further) for use in uses)
        return tuple(text for text, _ in own), terms, asked + named

    def _check_prompts(self) -> None:
        """Raise `InvalidInput` naming the field of a text that cannot be read."""
        if self.reading == "plain":
            return
        mixed = [("mix_with", term.prompt) for term in self.mix_with]
        for field, text in (*(("prompt", text) for text in self.prompts), *mixed, ("negative", self.negative)):
            try:
                emphasis.sections(text)
            except InvalidInput as error:
                raise InvalidInput(error.reason, field=field, hint=error.hint) from error

    def _start(self, init: InitReference | None, mask: InitReference | None) -> Start:
        if self.init is None:
            return Start()
        how: dict[str, Any] = {"fit": self.fit or "crop", "encode": self.encode or "sample", **self._masked(mask)}
        if self.mode == "roundtrip":
            return Start(image=init, **how)
        if self.start_step is not None:
            if self.start_step >= self.steps:
                raise InvalidInput(f"{self.start_step} leaves none of the {self.steps} steps to do", field="start_step")
            return Start(image=init, step=self.start_step, **how)
        strength = 0.75 if self.strength is None else self.strength
        return Start(image=init, step=start_step_of_strength(strength, self.steps), **how)

    def _masked(self, mask: InitReference | None) -> dict[str, Any]:
        """What a start says of a mask: nothing where nothing of the picture is kept."""
        if mask is None and self.outpaint is None:
            return {}
        how: dict[str, Any] = {
            "mask": mask,
            "redo": self.redo or "white",
            "mask_blur": self._blur if self.mask_blur is None else self.mask_blur,
            "fill": self.fill or ("original" if self.outpaint is None else "blur"),
            "only_masked": self.only_masked,
            "outpaint": self.outpaint,
        }
        if self.outpaint is not None and self.only_masked is None and self.width is None and self.height is None:
            return {**how, "fit": "init"}
        return how if self.only_masked is None and self.outpaint is None else {**how, "fit": "pad"}


def _untagged(field: str, text: str) -> tuple[str, tuple[LoraUse, ...]]:
    try:
        return tags.taken_out(text)
    except InvalidInput as error:
        raise InvalidInput(error.reason, field=field, hint=error.hint) from error
