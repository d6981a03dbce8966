"""Who gets rows of the next forward pass: by priority, then by arrival. Plain Python, no tensors.

Rows can share a forward only within a group (one model, one latent size). Among the groups that hold the
most urgent jobs, the one served longest ago goes first, so that groups of equal urgency take turns and none
starves. A more urgent job takes rows at the next step; the one it displaces waits in place with its state.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Candidate:
    """A job in flight, as admission sees it. `rows` is 2 under classifier-free guidance, else 1."""

    id: str
    group: Hashable
    priority: int
    arrival: int
    rows: int


@dataclass
class Admission:
    """Chooses at every tick. Remembers only when each group was last served."""

    _tick: int = 0
    _served: dict[Hashable, int] = field(default_factory=dict)

    def choose(self, candidates: Sequence[Candidate], max_rows: int) -> list[str]:
        """The ids to advance by a step: all of one group, filling at most `max_rows` rows (but at least one job)."""
        if not candidates:
            return []
        group = self._next_group(candidates)
        self._tick += 1
        present = {candidate.group for candidate in candidates}
        self._served = {known: tick for known, tick in self._served.items() if known in present}
        self._served[group] = self._tick
        chosen: list[str] = []
        free = max_rows
        for candidate in sorted((c for c in candidates if c.group == group), key=_urgency):
            if candidate.rows <= free or not chosen:
                chosen.append(candidate.id)
                free -= candidate.rows
        return chosen

    def _next_group(self, candidates: Sequence[Candidate]) -> Hashable:
        highest = max(candidate.priority for candidate in candidates)
        urgent = [candidate for candidate in candidates if candidate.priority == highest]
        return min(urgent, key=lambda c: (self._served.get(c.group, 0), c.arrival)).group


def _urgency(candidate: Candidate) -> tuple[int, int]:
    return -candidate.priority, candidate.arrival
