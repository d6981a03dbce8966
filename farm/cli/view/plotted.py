"""A small plot in the terminal: a few curves over their steps, each drawn with a letter of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

MARKS = "ox+*#@%&=~^$AHNVXZ"
"""Curves are drawn with these in turn."""
_HEIGHT = 12
_LEFT = 9


def plotted(curves: Sequence[Sequence[tuple[float, float]]], *, width: int) -> list[str]:
    """Lines of text, `width` characters wide, with the values above 0 on a logarithmic axis.

    A curve is (x, value) pairs; where several meet, the first is seen. Empty if there is nothing to draw.
    """
    drawn = [[(x, math.log10(value)) for x, value in curve if value > 0] for curve in curves]
    places = [place for curve in drawn for place in curve]
    if not places:
        return []
    room = max(width - _LEFT - 1, 10)
    first, last = min(x for x, _ in places), max(x for x, _ in places)
    low, high = min(y for _, y in places), max(y for _, y in places)
    grid = [[" "] * room for _ in range(_HEIGHT)]
    for mark, curve in reversed(list(zip(MARKS * len(drawn), drawn, strict=False))):
        for x, y in curve:
            column = round((x - first) / ((last - first) or 1) * (room - 1))
            row = round((high - y) / ((high - low) or 1) * (_HEIGHT - 1))
            grid[row][column] = mark
    labels = {0: f"{10**high:.4g}", _HEIGHT - 1: f"{10**low:.4g}"}
    lines = [f"{labels.get(row, ''):>{_LEFT - 2}} |{''.join(cells)}".rstrip() for row, cells in enumerate(grid)]
    ends = f"{first:g}", f"{last:g}"
    return [*lines, f"{'':{_LEFT - 1}}{ends[0]}{ends[1]:>{room - len(ends[0])}}"]
