"""What a worker renders at the most: its operator's bounds, within those of every spec."""

from __future__ import annotations

from dataclasses import dataclass

from farm.errors import RenderError
from farm.spec import JobSpec

ALONE_SECONDS = 1_800.0
"""A job that may be what brought two workers down has one for itself, for so long at the most: all others wait."""


@dataclass(frozen=True)
class Limits:
    """Pixels a side, steps to do, and seconds of rendering. None: as much as a spec may ask for."""

    side: int | None = None
    steps: int | None = None
    seconds: float | None = None

    def check(self, spec: JobSpec, worker: str) -> None:
        """Raise `RenderError('limit')` if a resolved spec asks for more than the worker of this name gives."""
        assert spec.width and spec.height, "the spec is resolved"
        asked = (
            (max(spec.width, spec.height), self.side, "pixels a side", "--max-side"),
            (spec.steps_to_do, self.steps, "steps", "--max-steps"),
        )
        for number, most, what, option in asked:
            if most is not None and number > most:
                raise RenderError(
                    "limit",
                    f"it asks for {number:,} {what}, and the worker {worker} does {most:,} at the most",
                    hint=f"its operator sets that by {option}",
                )

    def timed(self, spec: JobSpec, *, alone: bool) -> JobSpec:
        """The spec with the time that it has here."""
        bounds = (spec.time_limit, self.seconds, ALONE_SECONDS if alone else None)
        return spec.model_copy(update={"time_limit": min((b for b in bounds if b is not None), default=None)})
