"""Plots of numbers over steps, or over noise levels: where every line, tick and mark of an SVG lies.

The template only writes it down. A plot is `WIDTH`×`HEIGHT` units, which the page stretches to the room that there is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeGuard

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 56, 412, 14, 200
_MOST_DOTS = 120
_MOST_TICKS = 6
TINY = 1e-100
"""What is nearer to 0 is drawn as 0: the arithmetic of the ticks needs room below."""


@dataclass(frozen=True)
class Series:
    """One curve: its name in the legend, and a value for each step; None or NaN where there is none to draw.

    Curves of one `number` look alike, in whatever plots they are; else they look as their place in a plot says.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    number: int | None = None


@dataclass(frozen=True)
class Tick:
    """A place on an axis, in units of the SVG, and what is written there."""

    at: float
    label: str


@dataclass(frozen=True)
class Plot:
    """Curves over the steps `first` to `last` of a schedule; with `noise`, over its noise levels, which fall.

    Noise levels are all above `TINY`, and their axis is logarithmic.
    With `log` the upright axis is logarithmic, and what is not above 0 is not drawn. `mark` is a step that is pointed
    out, and what is said there.
    """

    id: str
    title: str
    about: str
    series: tuple[Series, ...]
    first: float
    last: float
    log: bool = False
    mark: tuple[int, str] | None = None
    noise: bool = False

    @property
    def is_empty(self) -> bool:
        return not self._values

    @cached_property
    def _values(self) -> list[float]:
        return [value for series in self.series for _, value in series.points if self._is_drawn(value)]

    def _is_drawn(self, value: float | None) -> TypeGuard[float]:
        return value is not None and math.isfinite(value) and (not self.log or value > TINY)

    @cached_property
    def _range(self) -> tuple[float, float]:
        """The least and the largest value of the axis; of its logarithm where it is a logarithmic one."""
        values = [math.log10(value) if self.log else _rounded(value) for value in self._values]
        low, high = min(values), max(values)
        if not self.log and 0 <= low < high / 2:
            low = 0.0
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            room = abs(high) / 10 or 1.0
            low, high = low - room, high + room
        return low, high

    @property
    def unit(self) -> str:
        """What the level axis counts."""
        return "σ" if self.noise else "step"

    def x(self, step: float) -> float:
        """Where a step is, or a noise level, from left to right."""
        first, at, last = (-math.log10(one) if self.noise else one for one in (self.first, step, self.last))
        share = (at - first) / ((last - first) or 1)
        return round(LEFT + share * (RIGHT - LEFT), 2)

    def y(self, value: float) -> float:
        """Where a value is, from above."""
        low, high = self._range
        height = math.log10(value) if self.log else _rounded(value)
        return round(BOTTOM - (height - low) / (high - low) * (BOTTOM - TOP), 2)

    def places(self, series: Series) -> list[tuple[float, float]]:
        """Where the points of a curve are."""
        return [place for run in self._runs(series) for place in run]

    def dots(self, series: Series) -> list[tuple[float, float]]:
        """Where its points are shown as dots: everywhere, or of many only where a point has no neighbour.

        Over noise levels lie curves of several jobs, which dots would make look alike: there they are few as well.
        """
        places = self.places(series)
        return (
            places
            if len(places) <= _MOST_DOTS and not self.noise
            else [run[0] for run in self._runs(series) if len(run) == 1]
        )

    def lines(self, series: Series) -> list[str]:
        """The polylines of a curve, which is interrupted where there is nothing to draw."""
        return [" ".join(f"{x:g},{y:g}" for x, y in run) for run in self._runs(series)]

    def _runs(self, series: Series) -> Iterator[list[tuple[float, float]]]:
        run: list[tuple[float, float]] = []
        for step, value in series.points:
            if self._is_drawn(value):
                run.append((self.x(step), self.y(value)))
            elif run:
                yield run
                run = []
        if run:
            yield run

    @property
    def steps(self) -> list[Tick]:
        """The ticks of the level axis: at whole steps, or at round noise levels."""
        if self.noise:
            low, high = math.log10(self.last), math.log10(self.first)
            levels = _decades(low, high) if low < high else [self.first]
            return [Tick(self.x(level), f"{level:.4g}") for level in levels]
        ticks = _even(self.first, self.last) if self.last > self.first else [float(self.first)]
        return [Tick(self.x(step), f"{step:g}") for step in ticks if step == int(step)]

    @property
    def levels(self) -> list[Tick]:
        """The ticks of the upright axis."""
        low, high = self._range
        values = _decades(low, high) if self.log else _even(low, high)
        return [Tick(self.y(value), f"{value:.4g}") for value in values]

    @property
    def rows(self) -> list[tuple[float, list[float | None]]]:
        """The numbers as a table: a row a step or a noise level, from left to right, with the value of each curve."""
        by_step = [dict(series.points) for series in self.series]
        steps = sorted(set().union(*by_step), reverse=self.noise)
        return [(step, [values.get(step) for values in by_step]) for step in steps]


def _rounded(value: float) -> float:
    return 0.0 if abs(value) < TINY else value


def _even(low: float, high: float) -> list[float]:
    """A few round numbers between two: multiples of 1, 2 or 5 times a power of ten."""
    least = (high - low) / _MOST_TICKS
    power: float = 10.0 ** math.floor(math.log10(least))
    apart = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
    return [number * apart for number in range(math.ceil(low / apart - 1e-9), math.floor(high / apart + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten between two, given by their logarithms; with few of them twos and fives too."""
    first, last = math.floor(low), math.ceil(high)
    every = math.ceil((last - first) / _MOST_TICKS)
    powers = [10.0**exponent for exponent in range(first, last + 1, every)]
    factors = (1, 2, 5) if last - first <= 2 else (1, 3) if last - first <= 3 else (1,)
    numbers = (factor * power for power in powers for factor in factors)
    return [number for number in numbers if low <= math.log10(number) <= high]
