"""What a job's trace and result say in numbers, read from whatever anybody may have put there.

The bucket is open to others: what makes no sense is left out, and a remark says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from farm.jobs.spec import MAX_LOSSES, MAX_STEPS, JobSpec

MAX_LINE = 4_096
"""Bytes of one step in `trace.jsonl`, as workers have it too."""
_LARGEST = 1e100
_MAX_NORMS = 16


def figure(value: Any) -> float | None:
    """A number that can be drawn; None where there is nothing, and NaN for all else, beyond all measure included."""
    try:
        number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.nan
    return None if value is None else number if abs(number) <= _LARGEST else math.nan


Figure = Annotated[float | None, BeforeValidator(figure)]
Part = Literal["picture", "frames", "prompts", "schedule", "numbers", "losses", "video", "time"]


@dataclass(frozen=True)
class Remark:
    """Why something of a `part` of the page is not there. A `fault` is one of what was stored."""

    part: Part
    text: str
    is_fault: bool = False


class Pull(BaseModel):
    """How far the conditional prediction is from the unconditional one: in degrees, and as a norm."""

    model_config = ConfigDict(frozen=True)

    angle: Figure = None
    distance: Figure = None


class Step(BaseModel):
    """One line of `trace.jsonl`; older workers wrote fewer numbers.

    Norms are by name: `x`, `x_next`, `x0`, `output`, `conditional`, `unconditional`.
    """

    model_config = ConfigDict(frozen=True)

    step: Annotated[int, Field(ge=0, lt=MAX_STEPS)]
    sigma: Figure = None
    norms: Annotated[dict[str, Figure], Field(max_length=_MAX_NORMS)] = {}
    guidance: Pull | None = None
    x0_change: Figure = None
    losses: Annotated[dict[str, Figure], Field(max_length=MAX_LOSSES)] = {}


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
