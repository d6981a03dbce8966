"""A farm as a discrete-event simulation: who loads what when, for jobs that come by chance.

Times are in seconds of the simulation. A worker renders one job at a time, and loads one model beside that.
"""

from __future__ import annotations

import heapq
import itertools
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from worker.models import demand

LOOK = 1.0
"""How often a worker looks what waits."""


@dataclass(frozen=True)
class Setting:
    """A farm: the arrivals a second of each model's jobs until `end`, workers with room for some models each.

    `priorities` are those of the jobs of some models; others have 5.
    """

    rates: Mapping[str, float]
    priorities: Mapping[str, float] = field(default_factory=dict)
    workers: int = 4
    room: int = 2
    job: float = 1.0
    load: float = 10.0
    end: float = 2_000.0

    def arrivals(self, seed: int) -> list[tuple[float, str]]:
        """When jobs come, and of which models."""
        chance = random.Random(seed)
        found: list[tuple[float, str]] = []
        for model, rate in self.rates.items():
            moment = chance.expovariate(rate)
            while moment < self.end:
                found.append((moment, model))
                moment += chance.expovariate(rate)
        return sorted(found)


@dataclass
class Worker:
    """The models it has and since when, the one that it loads, and whether it renders."""

    held: dict[str, float] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)
    loading: str | None = None
    leave: tuple[str, ...] = ()
    is_busy: bool = False


class Strategy(ABC):
    """How workers choose. Those that `look` do so every second, the others only when they have nothing to render."""

    looks = False

    @abstractmethod
    def choose(self, farm: Farm, worker: Worker) -> tuple[str | None, str | None]:
        """For a worker that renders nothing: the model whose first job it takes, or one to load."""

    def look(self, farm: Farm, worker: Worker) -> demand.Plan:
        raise NotImplementedError


class Farm:
    """One run. `waits` are how long each job waited until it was begun, or until the end, by its model."""

    def __init__(self, setting: Setting, strategy: Strategy, seed: int) -> None:
        self.setting = setting
        self.strategy = strategy
        self.now = 0.0
        self.queues: dict[str, deque[float]] = {model: deque() for model in setting.rates}
        self.workers = [Worker() for _ in range(setting.workers)]
        self.done = self.loads = 0
        self.waits: dict[str, list[float]] = {model: [] for model in setting.rates}
        self._order = itertools.count()
        self._events: list[tuple[float, int, str, int, str]] = []
        for moment, model in setting.arrivals(seed):
            self._at(moment, "arrival", model=model)
        if strategy.looks:
            for number in range(setting.workers):
                self._at(LOOK * number / setting.workers, "look", number)

    def run(self) -> Farm:
        while self._events and self._events[0][0] < self.setting.end:
            self.now, _, what, number, model = heapq.heappop(self._events)
            self._happens(what, self.workers[number], number, model)
            for other, worker in enumerate(self.workers):
                self._go_on(worker, other)
        for model, queue in self.queues.items():
            self.waits[model] += [self.setting.end - moment for moment in queue]
        return self

    @property
    def loads_per_job(self) -> float:
        return self.loads / self.done

    def longest_wait(self, *models: str) -> float:
        return max(wait for model in models or self.waits for wait in self.waits[model])

    def elsewhere(self, model: str, but: Worker) -> int:
        others = (one for one in self.workers if one is not but)
        return sum(model in one.held or one.loading == model for one in others)

    def oldest(self, models: Iterator[str]) -> str | None:
        """The one of the models whose first job came before the others'."""
        return min((model for model in models if self.queues[model]), key=lambda one: self.queues[one][0], default=None)

    def _at(self, moment: float, what: str, number: int = 0, model: str = "") -> None:
        heapq.heappush(self._events, (moment, next(self._order), what, number, model))

    def _happens(self, what: str, worker: Worker, number: int, model: str) -> None:
        match what:
            case "arrival":
                self.queues[model].append(self.now)
            case "rendered":
                worker.is_busy = False
                self.done += 1
            case "loaded":
                worker.loading = None
                for left in worker.leave:
                    worker.held.pop(left, None)
                worker.held[model] = worker.used[model] = self.now
            case "look":
                self._at(self.now + LOOK, "look", number)
                if worker.loading is None and (plan := self.strategy.look(self, worker)).load:
                    self._load(worker, number, plan.load, plan.leave)

    def _load(self, worker: Worker, number: int, model: str, leave: tuple[str, ...]) -> None:
        self.loads += 1
        for left in leave:
            if not self.queues[left]:
                worker.held.pop(left, None)
        worker.loading, worker.leave = model, leave
        self._at(self.now + self.setting.load, "loaded", number, model)

    def _go_on(self, worker: Worker, number: int) -> None:
        if worker.is_busy:
            return
        model, load = self.strategy.choose(self, worker)
        if model is not None:
            self.waits[model].append(self.now - self.queues[model].popleft())
            worker.is_busy, worker.used[model] = True, self.now
            self._at(self.now + self.setting.job, "rendered", number)
        elif load is not None and worker.loading is None:
            full = len(worker.held) >= self.setting.room
            first_out = (min(worker.held, key=lambda one: worker.used[one]),) if full else ()
            self._load(worker, number, load, first_out)


class Ours(Strategy):
    """What workers do: they look every second, and load beside rendering."""

    looks = True

    def choose(self, farm: Farm, worker: Worker) -> tuple[str | None, str | None]:
        return farm.oldest(iter(worker.held)), None

    def look(self, farm: Farm, worker: Worker) -> demand.Plan:
        models = (
            demand.Model(
                name,
                waiting=len(queue),
                oldest=farm.now - queue[0] if queue else 0.0,
                size=1,
                load=farm.setting.load,
                elsewhere=farm.elsewhere(name, worker),
                held=farm.now - worker.held[name] if name in worker.held else None,
                idle=farm.now - worker.used.get(name, 0.0),
                priority=farm.setting.priorities.get(name, 5.0),
            )
            for name, queue in farm.queues.items()
        )
        return demand.plan(models, farm.setting.room, farm.setting.job)


class OldestFirst(Strategy):
    """Always take the oldest job, whatever has to be loaded for it."""

    def choose(self, farm: Farm, worker: Worker) -> tuple[str | None, str | None]:
        if worker.loading is not None:
            return None, None
        others = {one.loading for one in farm.workers}
        model = farm.oldest(name for name in farm.queues if name in worker.held or name not in others)
        return (model, None) if model in worker.held else (None, model)


class UntilEmpty(Strategy):
    """Stay with what is loaded until no job of it waits, then load what most jobs wait for."""

    def choose(self, farm: Farm, worker: Worker) -> tuple[str | None, str | None]:
        if model := farm.oldest(iter(worker.held)):
            return model, None
        others = {one.loading for one in farm.workers}
        cold = [name for name, queue in farm.queues.items() if queue and name not in others]
        return None, max(cold, key=lambda name: len(farm.queues[name]), default=None)
