"""How long the rows of each batch key take, learnt from its steps, so that slow ones are told from quick ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

_NEWEST = 0.3
"""The weight of the newest step: a machine's speed changes with what else it does."""
_MOST_KEYS = 256


@dataclass
class Paces:
    """Seconds per row, of the batch keys that had a step most recently."""

    _seconds: OrderedDict[Hashable, float] = field(default_factory=OrderedDict)

    def of(self, batch_key: Hashable) -> float | None:
        """Seconds that a row takes in a step; None before the first."""
        return self._seconds.get(batch_key)

    def took(self, batch_key: Hashable, rows: int, seconds: float) -> None:
        """A step of this many rows took this long."""
        known = self._seconds.get(batch_key)
        new = seconds / rows
        self._seconds[batch_key] = new if known is None else known + _NEWEST * (new - known)
        self._seconds.move_to_end(batch_key)
        if len(self._seconds) > _MOST_KEYS:
            self._seconds.popitem(last=False)
