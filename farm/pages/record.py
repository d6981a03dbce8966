"""What a job's result and trace say of how its picture came to be, read from whatever anybody may have put there.

Older farms wrote less, and the bucket is open to others: what is not there or makes no sense is left out, and a remark
says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from farm.bucket.results import JobResult
from farm.jobs.spec import MAX_LOSSES, MAX_PROMPT_CHARACTERS, MAX_PROMPTS, MAX_STEPS, JobSpec

MAX_LINE = 4_096
"""Bytes of one step in `trace.jsonl`, as workers have it too."""
_LARGEST = 1e100
_MAX_NORMS = 16


def _figure(value: Any) -> float | None:
    """A number that can be drawn; None where there is nothing, and NaN for all else, beyond all measure included."""
    try:
        number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.nan
    return None if value is None else number if abs(number) <= _LARGEST else math.nan


Figure = Annotated[float | None, BeforeValidator(_figure)]
Role = Literal["prompt", "negative"]
Part = Literal["picture", "frames", "prompts", "schedule", "numbers", "losses", "video", "time"]


@dataclass(frozen=True)
class Remark:
    """Why something of a `part` of the page is not there. A `fault` is one of what was stored."""

    part: Part
    text: str
    is_fault: bool = False


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True)


class Token(_Read):
    """One piece of a prompt as the encoder saw it, by its id in the vocabulary."""

    id: Annotated[int, Field(ge=0, lt=2**53)]
    piece: str


class Prompt(_Read):
    """A prompt of the mix, with its share, or the negative one: its tokens in order, and the words that were cut."""

    role: Role
    weight: Figure = None
    tokens: Annotated[tuple[Token, ...], Field(max_length=MAX_PROMPT_CHARACTERS)]
    cut: Annotated[tuple[str, ...], Field(max_length=MAX_PROMPT_CHARACTERS)] = ()


class Schedule(_Read):
    """The noise levels (σ/α) that a sampler's whole schedule visits, and how they are spaced."""

    spacing: str = ""
    sigmas: Annotated[tuple[Figure, ...], Field(min_length=1, max_length=MAX_STEPS)]


class Pull(_Read):
    """How far the conditional prediction is from the unconditional one: in degrees, and as a norm."""

    angle: Figure = None
    distance: Figure = None


class Step(_Read):
    """One line of `trace.jsonl`. Norms are by name: `x`, `x_next`, `x0`, `output`, `conditional`, `unconditional`."""

    step: Annotated[int, Field(ge=0, lt=MAX_STEPS)]
    sigma: Figure = None
    norms: Annotated[dict[str, Figure], Field(max_length=_MAX_NORMS)] = {}
    guidance: Pull | None = None
    x0_change: Figure = None
    losses: Annotated[dict[str, Figure], Field(max_length=MAX_LOSSES)] = {}


class _Told(_Read):
    """The fields of a result that not every farm writes."""

    prompts: Annotated[tuple[Prompt, ...], Field(max_length=MAX_PROMPTS + 1)] | None = None
    schedule: Schedule | None = None
    losses: (
        Annotated[
            dict[str, Annotated[tuple[tuple[int, Figure], ...], Field(max_length=MAX_STEPS)]],
            Field(max_length=MAX_LOSSES),
        ]
        | None
    ) = None
    queued: Figure = None


_FIELDS: Mapping[str, Part] = {"prompts": "prompts", "schedule": "schedule", "losses": "losses", "queued": "time"}


@dataclass(frozen=True)
class Told:
    """What a result says beyond what every result does. None: it does not say it, and a remark says why."""

    prompts: tuple[Prompt, ...] | None
    schedule: Schedule | None
    losses: Mapping[str, Sequence[tuple[int, float | None]]] | None
    queued: float | None
    remarks: tuple[Remark, ...]

    @classmethod
    def by(cls, result: JobResult) -> Self:
        return cls.by_fields(result.model_dump(mode="json"))

    @classmethod
    def by_fields(cls, fields: Mapping[str, Any]) -> Self:
        """The same of a result's JSON. Each field is read by itself, so that a damaged one hides no other."""
        read: dict[str, Any] = {}
        remarks = []
        for name, part in _FIELDS.items():
            given = fields.get(name)
            try:
                read[name] = getattr(_Told.model_validate({name: given}), name)
            except ValidationError:
                read[name] = None
            if given is not None and read[name] is None:
                remarks.append(Remark(part, f"What result.json says of '{name}' cannot be read.", is_fault=True))
        return cls(**read, remarks=tuple(remarks))


def read_steps(data: bytes, spec: JobSpec) -> tuple[tuple[Step, ...], tuple[Remark, ...]]:
    """The steps in `trace.jsonl`, in order, each once, and what was wrong with other lines."""
    steps: dict[int, Step] = {}
    strange = 0
    for line in data.splitlines():
        step = _read_step(line, spec)
        if step is None or step.step in steps:
            strange += 1
        else:
            steps[step.step] = step
    told = f"{strange:,} {'line' if strange == 1 else 'lines'} of trace.jsonl cannot be read as a step of this job."
    remarks = (Remark("numbers", told, is_fault=True),) if strange else ()
    return tuple(steps[step] for step in sorted(steps)), remarks


def _read_step(line: bytes, spec: JobSpec) -> Step | None:
    try:
        step = Step.model_validate_json(line) if len(line) <= MAX_LINE else None
    except ValidationError:
        return None
    return step if step and spec.start.step <= step.step < spec.steps else None
