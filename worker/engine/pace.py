"""How long the rows of each batch key take, learnt from its steps, so that slow ones are told from quick ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

_NEWEST = 0.3
"""The weight of the newest step: a machine's speed changes with what else it does."""
_MOST_KEYS = 256


_GAIN = 1.03
"""More rows together are worth it if each then takes this much less time. Below it they only wait for one another."""
_UNNOTICED_SECONDS = 1.0
"""Steps shorter than this are as large as they can be: whoever comes meanwhile hardly waits."""
_FRESH_STEPS = 64
"""For how many steps it is remembered how long a number of rows took. The first time can be slow for many reasons."""


@dataclass
class _Together:
    """Seconds per row if so many are taken together, and the step at which that was seen last."""

    seconds: float
    step: int


@dataclass
class _Pace:
    """Seconds per row of a batch key: lately, and by how many were taken together, to the next power of two."""

    lately: float
    steps: int = 0
    together: dict[int, _Together] = field(default_factory=dict)


@dataclass
class Paces:
    """Seconds per row, of the batch keys that had a step most recently."""

    _paces: OrderedDict[Hashable, _Pace] = field(default_factory=OrderedDict)

    def of(self, batch_key: Hashable) -> float | None:
        """Seconds that a row takes in a step; None before the first."""
        pace = self._paces.get(batch_key)
        return pace.lately if pace else None

    def worth(self, batch_key: Hashable) -> int | None:
        """The number of rows of which more together are hardly quicker; None while nobody knows one.

        A forward of two large pictures keeps a GPU busy. Of sixteen, all would be done when the last one is, and
        whoever comes meanwhile waits for as long.
        """
        pace = self._paces.get(batch_key)
        fresh = sorted(pace.together.items()) if pace else []
        for index, (number, seen) in enumerate(fresh[:-1]):
            best = min(more.seconds for _, more in fresh[index + 1 :])
            if seen.seconds <= _GAIN * best:
                return max(number, int(_UNNOTICED_SECONDS / seen.seconds))
        return None

    def took(self, batch_key: Hashable, rows: int, seconds: float) -> None:
        """A step of this many rows took this long."""
        new = seconds / rows
        pace = self._paces.setdefault(batch_key, _Pace(new))
        pace.lately += _NEWEST * (new - pace.lately)
        pace.steps += 1
        number = 1 << (rows - 1).bit_length()
        known = pace.together.get(number)
        lately = known.seconds + _NEWEST * (new - known.seconds) if known else new
        pace.together[number] = _Together(min(new, lately), pace.steps)
        pace.together = {n: seen for n, seen in pace.together.items() if pace.steps - seen.step < _FRESH_STEPS}
        self._paces.move_to_end(batch_key)
        if len(self._paces) > _MOST_KEYS:
            self._paces.popitem(last=False)
