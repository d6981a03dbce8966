"""How much is drawn to measure a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How much to draw: seeds a subject, and how many subjects, scenes and pairs each measure takes at most.

    Mixes need many pairs: of 20, one more or less is five hundredths. `few` pictures do where hardly any differs, and
    `renders` of each style show its judge what the style looks like. Pictures take so many `steps`, but where a measure
    says of how many it is.
    """

    seeds: int = 3
    subjects: int | None = None
    scenes: int = 60
    pairs: int = 20
    mixes: int = 100
    guidances_of_mixes: tuple[float, ...] = (4.0, 6.0)
    reconstructions: int = 200
    few: int = 8
    renders: int = 30
    steps: int = 20


QUICK = Effort(
    seeds=1,
    subjects=2,
    scenes=4,
    pairs=2,
    mixes=12,
    guidances_of_mixes=(6.0,),
    reconstructions=8,
    few=2,
    renders=16,
    steps=10,
)
"""The smaller version, for tests."""
