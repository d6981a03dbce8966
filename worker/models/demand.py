"""Which model a worker loads next, and of which others it then takes no more jobs.

To load a model takes as long as to render several pictures. Whoever always takes the oldest job may load one for each;
whoever stays with a model until no job of it waits never comes to the others if its jobs keep coming. So a model with
jobs is kept for a while that is long beside loading the next, and a job that has waited for long beside that is due:

- What finds room beside the others is loaded as soon as a job waits for it.
- A model for which no job waits makes room for one for which some do: the one that was used the longest ago.
- A model for which jobs wait makes room only after its while, and only for one that is due.
- Of models that are due the one with the oldest job is next, so none waits for ever; of others the one whose jobs have
  waited the most together for what loading it takes, the wait of urgent ones counting for more.
- A model that other workers have is loaded here as well only if they have more to do than loading it takes; clearly
  more, if this worker has anything else to do.

`tests/worker/models/test_demand.py` holds this against both of those simpler ways, in a simulated farm. No clocks and
no connections here: `worker/job/supply.py` asks, with what the farm says at that moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

STAY, DUE = 4.0, 8.0
"""How many times as long as loading another a model is kept that has jobs, and a job waits until it is due."""


@dataclass(frozen=True)
class Model:
    """A model as one worker sees it. Times are in seconds, sizes in bytes of memory.

    `waiting` jobs are queued for it, the first of them since `oldest`, of a mean `priority` (0 to 9). It takes `load`
    to load it. `elsewhere` counts the other workers that have it or load it. `held` is for how long this one has been
    taking its jobs, None if it does not, and `idle` since when none of them was begun or finished here.
    """

    name: str
    waiting: int = 0
    oldest: float = 0.0
    size: int = 0
    load: float = 0.0
    elsewhere: int = 0
    held: float | None = None
    idle: float = 0.0
    priority: float = 5.0

    @property
    def is_due(self) -> bool:
        """Whether its oldest job has waited for so long that it goes before jobs of models that are loaded."""
        return self.waiting > 0 and self.oldest >= DUE * self.load


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
    is_idle = not any(model.waiting for model in held)
    wanted = [model for model in known if model.held is None and _needs_another(model, job_seconds, is_idle)]
    for model in sorted(wanted, key=_urgency, reverse=True):
        leave = _places(model, held, room)
        if leave is not None:
            return Plan(model.name, tuple(leave))
    return Plan()


def _needs_another(model: Model, job_seconds: float, is_idle: bool) -> bool:
    """Whether jobs wait that the workers which have the model will not soon have done."""
    soon = model.load if is_idle else STAY * model.load
    return model.waiting * job_seconds > model.elsewhere * soon


def _urgency(model: Model) -> tuple[bool, float, str]:
    if model.is_due:
        return True, model.oldest, model.name
    return False, (1 + model.priority) * model.waiting * model.oldest / max(model.load, 1e-3), model.name


def _places(model: Model, held: Sequence[Model], room: int) -> list[str] | None:
    """Those that make room for a model, none if there is room already; None if too few of them may."""
    lacking = sum(other.size for other in held) + model.size - room
    leave: list[str] = []
    for other in sorted(held, key=_dispensable):
        if lacking > 0 and _may_leave(other, model):
            leave.append(other.name)
            lacking -= other.size
    return leave if lacking <= 0 or len(leave) == len(held) else None


def _dispensable(model: Model) -> tuple[bool, float, str]:
    """First those without jobs, used the longest ago; then those with the fewest."""
    return model.waiting > 0, float(model.waiting) if model.waiting else -model.idle, model.name


def _may_leave(model: Model, for_one: Model) -> bool:
    kept = model.held is None or model.held >= STAY * for_one.load
    return not model.waiting or (for_one.is_due and kept)
