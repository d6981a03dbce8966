"""Which model a worker loads next, and of which others it then takes no more jobs.

To load a model takes as long as to render several pictures. Whoever always takes the oldest job may load one for each;
whoever stays with a model until no job of it waits never comes to the others if its jobs keep coming. So a model is
kept for a while that is long beside loading the next, and a job that has waited for about as long is due:

- What finds room beside the others is loaded as soon as a job waits for it.
- A model for which no job waits makes room for one for which some do.
- A model for which jobs wait makes room only after its while, and only for one that is due; among those the oldest
  job decides, so none waits for ever.
- A model that other workers have is loaded here as well only if they have clearly more to do than loading it takes.

No clocks, no connections: `worker/job/supply.py` asks, with what the farm says at that moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

STAY = 4.0
"""For how many times as long as it takes to load another a model is kept that has jobs, and a job waits until it is
due. So at most a fifth of a worker's time goes into loading, if it does nothing else meanwhile."""


@dataclass(frozen=True)
class Model:
    """A model as one worker sees it. Times are in seconds, sizes in bytes.

    `waiting` jobs are queued for it, the first of them since `oldest` seconds. It takes `load` to load it. `elsewhere`
    counts the other workers that have it or load it. `held` is for how long this one has been taking its jobs, None if
    it does not have it.
    """

    name: str
    waiting: int = 0
    oldest: float = 0.0
    size: int = 0
    load: float = 0.0
    elsewhere: int = 0
    held: float | None = None

    @property
    def is_due(self) -> bool:
        """Whether its oldest job has waited for so long that it goes before jobs of models that are loaded."""
        return self.waiting > 0 and self.oldest >= STAY * self.load


@dataclass(frozen=True)
class Plan:
    """A model to load, if any, and those whose jobs are no longer taken when it is there."""

    load: str | None = None
    leave: tuple[str, ...] = ()


def plan(models: Iterable[Model], room: int, job_seconds: float) -> Plan:
    """What to load next into `room` bytes, which a model that is larger has to itself.

    `job_seconds` is how long a worker takes for a job, about.
    """
    known = list(models)
    held = [model for model in known if model.held is not None]
    wanted = [model for model in known if model.held is None and _needs_another(model, job_seconds)]
    for model in sorted(wanted, key=lambda one: _urgency(one, job_seconds), reverse=True):
        leave = _places(model, held, room)
        if leave is not None:
            return Plan(model.name, tuple(leave))
    return Plan()


def _needs_another(model: Model, job_seconds: float) -> bool:
    """Whether jobs wait that the workers which have the model will not soon have done."""
    return model.waiting * job_seconds > model.elsewhere * STAY * model.load if model.elsewhere else model.waiting > 0


def _urgency(model: Model, job_seconds: float) -> tuple[bool, float, str]:
    """Jobs that are due go first, the oldest of them first of all; else the most waiting for the least loading."""
    waited = model.oldest if model.is_due else model.oldest + model.waiting * job_seconds
    return model.is_due, waited if model.is_due else waited / max(model.load, 1e-3), model.name


def _places(model: Model, held: Sequence[Model], room: int) -> list[str] | None:
    """Those that make room for a model, none if there is room already; None if too few of them may."""
    lacking = sum(other.size for other in held) + model.size - room
    leave: list[str] = []
    for other in sorted(held, key=_dispensable):
        if lacking > 0 and _may_leave(other, model):
            leave.append(other.name)
            lacking -= other.size
    return leave if lacking <= 0 or len(leave) == len(held) else None


def _dispensable(model: Model) -> tuple[bool, bool, float]:
    """First those without jobs, of these those that others have too, and of these the one that was kept the longest."""
    return model.waiting > 0, not model.elsewhere, -(model.held or 0.0)


def _may_leave(model: Model, for_one: Model) -> bool:
    held = model.held or 0.0
    return held >= for_one.load if not model.waiting else for_one.is_due and held >= STAY * for_one.load
