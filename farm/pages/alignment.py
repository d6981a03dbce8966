"""Which frames of several jobs belong together: those of like noise, whatever the steps of their jobs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeGuard

from farm.pages.gather import Frame
from farm.pages.plot import TINY

_ALIKE = 1e-4
"""Levels that differ by this share of themselves are one: workers round their last digits unlike."""


def is_level(sigma: float | None) -> TypeGuard[float]:
    """Whether it is a noise level that has a place on a logarithmic axis."""
    return sigma is not None and sigma > TINY


def placed(frames: Iterable[Frame], sigmas: Mapping[int, float | None]) -> list[tuple[Frame, float]]:
    """Those frames whose noise level is known, with the level that their step starts from."""
    found = ((frame, sigmas.get(frame.step)) for frame in frames)
    return [(frame, sigma) for frame, sigma in found if is_level(sigma)]


def stations(levels: Iterable[Sequence[float]]) -> list[float]:
    """The places of a scrubber over the noise levels of several jobs: each level of any job once, falling."""
    kept: list[float] = []
    for level in sorted((level for of_job in levels for level in of_job), reverse=True):
        if not kept or level < kept[-1] * (1 - _ALIKE):
            kept.append(level)
    return kept


def nearest(levels: Sequence[float], stations: Sequence[float]) -> list[int]:
    """For each station the index of the level that is nearest to it by ratio; of two that are, the first.

    There must be at least one level; all are above 0.
    """
    places = [math.log(level) for level in levels]
    found = []
    for station in map(math.log, stations):
        apart = [abs(place - station) for place in places]
        found.append(apart.index(min(apart)))
    return found
