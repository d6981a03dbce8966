"""The most that a worker renders: its operator's bounds, within those of every spec.

Workers announce them, so that whoever submits a job hears at once if nobody would render it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import Field

from farm.errors import RenderError
from farm.jobs.spec import JobSpec, ResolvedSpec

Spec = TypeVar("Spec", bound=JobSpec)

ALONE_SECONDS = 1_800.0
"""A job that may have brought down two workers gets one to itself, for at most this long: all others wait."""


@dataclass(frozen=True)
class Limits:
    """Pixels a side, steps to do, and seconds of rendering. None: as much as a spec may ask for."""

    side: Annotated[int | None, Field(ge=1, lt=2**53)] = None
    steps: Annotated[int | None, Field(ge=1, lt=2**53)] = None
    seconds: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None

    def __str__(self) -> str:
        given = ((self.side, "pixels a side"), (self.steps, "steps"), (self.seconds, "s"))
        return ", ".join(f"{number:,g} {what}" for number, what in given if number is not None)

    def excess(self, spec: JobSpec) -> tuple[str, str, str] | None:
        """What a spec asks for beyond them, what they are, and the option that sets them; None if it is within.

        A size that is left to the model counts as within.
        """
        asked = (
            (max(spec.width or 0, spec.height or 0), self.side, "pixels a side", "--max-side"),
            (spec.steps_to_do, self.steps, "steps", "--max-steps"),
        )
        for number, most, what, option in asked:
            if most is not None and number > most:
                return f"{number:,} {what}", f"{most:,}", option
        return None

    def check(self, spec: ResolvedSpec, worker: str) -> None:
        """Raise `RenderError('limit')` if a spec asks for more than the worker of this name gives."""
        if excess := self.excess(spec):
            asked, most, option = excess
            raise RenderError(
                "limit",
                f"it asks for {asked}, but the worker {worker} does at most {most}",
                hint=f"its operator sets that with {option}",
            )

    def timed(self, spec: Spec, *, alone: bool) -> Spec:
        """The spec with the time limit that it has here."""
        bounds = (spec.time_limit, self.seconds, ALONE_SECONDS if alone else None)
        return spec.model_copy(update={"time_limit": min((b for b in bounds if b is not None), default=None)})
