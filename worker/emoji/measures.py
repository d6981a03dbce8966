"""Measures with their bounds, and how they are written down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measure:
    """One number and the bound that it must reach; ``at_most`` says that the bound is from above."""

    name: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def passed(self) -> bool:
        """Whether the bound is met."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound


def table(measures: Sequence[Measure]) -> str:
    """The measures as lines of name, value, bound and verdict."""
    width = max(len(measure.name) for measure in measures)
    return "\n".join(
        f"{measure.name:<{width}}  {measure.value:8.3f}  {'<=' if measure.at_most else '>='} {measure.bound:<6g}"
        f"  {'ok' if measure.passed else 'MISSED'}"
        for measure in measures
    )


def write_measures(measures: Sequence[Measure], path: Path) -> None:
    """Write the measures as JSON, by name, each with its verdict."""
    numbers = {measure.name: asdict(measure) | {"passed": measure.passed} for measure in measures}
    path.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
