"""How long the rows of each group take, learnt from its steps, so that slow ones are told from quick ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

_NEWEST = 0.3
"""The weight of the newest step: a machine's speed changes with what else it does."""
_MOST_GROUPS = 256


@dataclass
class Paces:
    """Seconds a row, by group; of the groups that had a step the latest."""

    _seconds: OrderedDict[Hashable, float] = field(default_factory=OrderedDict)

    def of(self, group: Hashable) -> float | None:
        """Seconds that a row of the group takes in a step; None before its first."""
        return self._seconds.get(group)

    def took(self, group: Hashable, rows: int, seconds: float) -> None:
        """A step of so many rows took so long."""
        known = self._seconds.get(group)
        new = seconds / rows
        self._seconds[group] = new if known is None else known + _NEWEST * (new - known)
        self._seconds.move_to_end(group)
        if len(self._seconds) > _MOST_GROUPS:
            self._seconds.popitem(last=False)
