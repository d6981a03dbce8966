"""Who gets rows of the next forward pass: by priority, then by arrival. Plain Python, no tensors.

Rows can share a forward only if they have one batch key (one model, one latent size). Keys of equal urgency share the
device's time, not its turns: the one that has had the least of it goes first (stride scheduling, Waldspurger 1995), so
that a few steps of small pictures do not each wait for a step of an enormous one. A more urgent job takes rows at the
next step; the one it displaces waits in place with its state.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Candidate:
    """A job in flight, as admission sees it. `rows` is 2 under classifier-free guidance, else 1."""

    id: str
    batch_key: Hashable
    priority: int
    arrival: int
    rows: int


@dataclass
class Admission:
    """Chooses at every tick. Remembers only how many seconds each batch key has had."""

    _spent: dict[Hashable, float] = field(default_factory=dict)

    def meet(self, batch_keys: Collection[Hashable]) -> None:
        """These batch keys have jobs in flight. One that is new has had as much as the one that had the least."""
        known = {batch_key: spent for batch_key, spent in self._spent.items() if batch_key in batch_keys}
        least = min(known.values(), default=0.0)
        self._spent = {batch_key: known.get(batch_key, least) for batch_key in batch_keys}

    def charge(self, batch_key: Hashable, seconds: float) -> None:
        """Jobs of a batch key have had the device for this long."""
        self._spent[batch_key] = self.spent(batch_key) + seconds

    def spent(self, batch_key: Hashable) -> float:
        """Seconds that a batch key has had the device, counted from where others were when it came."""
        return self._spent.get(batch_key, 0.0)

    def choose(self, candidates: Sequence[Candidate], max_rows: int) -> list[str]:
        """The ids to advance by a step: of one batch key, filling at most `max_rows` rows (but at least one job)."""
        if not candidates:
            return []
        batch_key = self._next_key(candidates)
        chosen: list[str] = []
        free = max_rows
        for candidate in sorted((c for c in candidates if c.batch_key == batch_key), key=_urgency):
            if candidate.rows <= free or not chosen:
                chosen.append(candidate.id)
                free -= candidate.rows
        return chosen

    def _next_key(self, candidates: Sequence[Candidate]) -> Hashable:
        highest = max(candidate.priority for candidate in candidates)
        urgent = [candidate for candidate in candidates if candidate.priority == highest]
        return min(urgent, key=lambda c: (self.spent(c.batch_key), c.arrival)).batch_key


def _urgency(candidate: Candidate) -> tuple[int, int]:
    return -candidate.priority, candidate.arrival
