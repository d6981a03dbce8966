"""Which of its models a worker has in memory and takes jobs of: all that find room, or else those that are asked for.

A thread looks what waits in the farm's queues, and follows what `worker/models/demand.py` makes of that. It loads the
next model while the engine goes on with the jobs of those that are there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from farm.errors import FarmError, LedgerUnavailable, ModelError, StorageError
from farm.jobs.status import WorkerInfo
from farm.ledger.ledger import Ledger
from farm.ledger.timing import TIMING, Timing
from worker.bucket.catalogue import Catalogue, Changes
from worker.models.demand import Model, plan
from worker.models.disguises import first_line
from worker.models.pool import ModelPool
from worker.models.service import CAN_PASS, FIRST_WAIT, LONGEST_WAIT, ModelService

_log = logging.getLogger(__name__)

_USUAL_LOAD_SECONDS = 10.0
_USUAL_JOB_SECONDS = 1.0
_LOOK_SECONDS = 0.05


@dataclass
class _Held:
    """A model that stays in memory, and since when jobs of it are taken."""

    until_left: ExitStack
    since: float = field(default_factory=time.monotonic)


@dataclass
class _Wait:
    """When a model that could not be loaded is tried again, and how long is waited the next time."""

    until: float
    seconds: float


class Supply:
    """One worker's models. `begin` before any job is taken, then `start`.

    `consume` is told whose jobs are to be taken whenever that changes, `announce` whenever the farm should know more,
    and `images_per_minute` says how fast jobs are done.
    """

    def __init__(
        self,
        worker: str,
        *,
        ledger: Ledger,
        catalogue: Catalogue,
        served: ModelService,
        pool: ModelPool[Any],
        consume: Callable[[Collection[str]], None],
        announce: Callable[[], None],
        images_per_minute: Callable[[], float],
        is_paused: Callable[[], bool],
        leaving: threading.Event,
        timing: Timing = TIMING,
    ) -> None:
        self._worker = worker
        self._ledger = ledger
        self._catalogue = catalogue
        self._served = served
        self._pool = pool
        self._consume = consume
        self._announce = announce
        self._images_per_minute = images_per_minute
        self._is_paused = is_paused
        self._leaving = leaving
        self._timing = timing
        self._held: dict[str, _Held] = {}
        self._waits: dict[str, _Wait] = {}
        self._load_seconds: dict[str, float] = {}
        self._taken: frozenset[str] | None = None
        self._looked = float("-inf")
        self._refreshed = 0
        self._is_away = False
        self.loading: str | None = None
        """The model that is being loaded now."""

    def begin(self) -> frozenset[str]:
        """Take jobs of the models that were loaded at the start, as far as they are still in memory. Returns those."""
        self._adopt()
        if not self._held and self._served.loaded:
            self._hold(self._served.loaded[-1])  # larger than the memory for models, all by itself
        self._take()
        return self._served.taken

    def start(self) -> None:
        threading.Thread(target=self._run, name="models", daemon=True).start()

    def _run(self) -> None:
        while not self._leaving.wait(self._timing.again):
            try:
                self.see_to_it()
            except LedgerUnavailable as error:
                _log.debug("what waits is not known: %s", error)  # others say so
            except Exception:  # the worker still has the models that it has
                _log.error("models could not be seen to", exc_info=True)

    def see_to_it(self) -> None:
        """Look once at what the farm keeps and what waits, and load what is asked for. Raises `LedgerUnavailable`."""
        if time.monotonic() - self._looked >= self._timing.models:
            self.refresh()
        self._try_again()
        self._adopt()
        self._take()
        if not self._is_paused() and any(name not in self._held for name in self._served.names):
            self._follow_demand()

    # What the farm keeps

    def refresh(self) -> None:
        """Look what the farm keeps now. A bucket that is away is told once, and changes nothing."""
        self._looked = time.monotonic()
        try:
            self._follow(self._catalogue.refresh())
        except StorageError as error:
            if not self._is_away:
                _log.warning("which models the farm keeps is not known: %s", error)
            self._is_away = True
        else:
            self._is_away = False
        self._refreshed += 1

    def _follow(self, changes: Changes) -> None:
        for name in changes.gone:
            _log.info("the farm keeps the model '%s' no longer", name)
            self._served.withdraw(name)
        for name in (*changes.gone, *changes.others):  # what is in memory is not what the farm keeps
            self._leave([name])
            self._pool.drop(name)
        for name in changes.come:
            self._waits.pop(name, None)
            self._served.offer(name)
        self._catalogue.keep_on_disk(self._pool.warm)
        if changes.come or changes.gone:
            self._announce()

    def is_current(self, name: str) -> bool:
        """Whether a job may begin with what is in memory of a model: by now the farm may keep another of that name.

        Then it is not to begin, and this returns when that has been seen to, or after a while. A bucket that does not
        answer is not waited for. From any thread.
        """
        try:
            if self._catalogue.is_current(name):
                return True
        except StorageError:
            return True
        seen, give_up = self._refreshed, time.monotonic() + self._timing.models
        self._looked = float("-inf")
        while self._refreshed == seen and time.monotonic() < give_up:
            if self._leaving.wait(_LOOK_SECONDS):
                break
        return False

    def _try_again(self) -> None:
        """Offer models again that could not be loaded a while ago."""
        now = time.monotonic()
        for name in self._served.passing:
            wait = self._waits.setdefault(name, _Wait(now + FIRST_WAIT, FIRST_WAIT))
            if now >= wait.until:
                self._served.offer(name)

    # What is in memory

    def _adopt(self) -> None:
        """Hold what is in memory and finds room there for good."""
        for name in self._pool.warm:
            if name not in self._held and name in self._served and self._room() >= self._size(name):
                self._hold(name)

    def _hold(self, name: str) -> None:
        """Keep a model in memory, loaded if it is not there. Raises `ModelError`, `StorageError`."""
        until_left = ExitStack()
        until_left.enter_context(self._pool.using(name))
        self._held[name] = _Held(until_left)

    def _leave(self, names: Iterable[str]) -> None:
        """Take no more jobs of models, and let others have their memory when those that run are done."""
        left = [(name, self._held.pop(name)) for name in names if name in self._held]
        if left:
            self._take()
        for name, held in left:
            self._pool.give_up(name)
            held.until_left.close()

    def _take(self) -> None:
        """Take the jobs of what is held, as far as it is served."""
        names = frozenset(name for name in self._held if name in self._served)
        if names != self._taken:
            self._taken = names
            self._served.take(names)
            self._consume(names)

    def _room(self) -> int:
        """Bytes of memory beside the models that are held."""
        return self._pool.budget - sum(map(self._size, self._held))

    def _size(self, name: str) -> int:
        return self._pool.size(name) or self._catalogue.bytes_of(name)

    # What is asked for

    def _follow_demand(self) -> None:
        """Load the model that is to be loaded next, if any, unless another worker has just begun to."""
        names = self._served.names
        demand = self._ledger.demand(names)
        if not demand.keys() - self._held.keys():
            return
        others = [one for one in self._ledger.workers() if one.id != self._worker and _takes_jobs(one)]
        models = {name: self._as_seen(name, demand, others) for name in names}
        pace = 60.0 / per_minute if (per_minute := self._images_per_minute()) else _USUAL_JOB_SECONDS
        while (now := plan(models.values(), self._pool.budget, pace)).load is not None:
            if self._is_ours_to_load(now.load):
                return self._load(now.load, [models[name] for name in now.leave])
            models[now.load] = replace(models[now.load], elsewhere=models[now.load].elsewhere + 1)

    def _is_ours_to_load(self, name: str) -> bool:
        """False if another has begun to load it so recently that its announcement may not have come."""
        return self._ledger.try_lock(f"load:{name}", self._worker, seconds=2 * self._timing.announcement)

    def _as_seen(self, name: str, demand: Any, others: Collection[WorkerInfo]) -> Model:
        waits, held = demand.get(name), self._held.get(name)
        return Model(
            name,
            waiting=waits.waiting if waits else 0,
            oldest=waits.oldest if waits else 0.0,
            size=self._size(name),
            load=self._expected_seconds(name),
            elsewhere=sum(name in other.warm or name == other.loading for other in others),
            held=time.monotonic() - held.since if held else None,
            idle=self._pool.idle(name),
            priority=waits.priority if waits else 0.0,
        )

    def _expected_seconds(self, name: str) -> float:
        """How long it took to load it, or else what is usual for its size."""
        if name in self._load_seconds:
            return self._load_seconds[name]
        known = [(seconds, self._size(other)) for other, seconds in self._load_seconds.items() if self._size(other)]
        if not known or not self._size(name):
            return _USUAL_LOAD_SECONDS
        return sum(seconds for seconds, _ in known) / sum(size for _, size in known) * self._size(name)

    def _load(self, name: str, leave: Collection[Model]) -> None:
        """Load a model while the jobs of the others go on; then take its jobs, and no more of those that `leave`."""
        self._leave(model.name for model in leave if not model.waiting)  # so that there is room first
        self._pool.make_room(self._size(name))
        _log.info("loading the model '%s', for which jobs wait", name)
        self.loading, began = name, time.monotonic()
        self._announce()
        try:
            self._hold(name)
        except (ModelError, StorageError) as error:
            self._could_not(name, error)
        except Exception as error:  # such as a fault in a library: the others are served all the same
            _log.error("the model '%s' could not be loaded", name, exc_info=True)
            self._could_not(name, ModelError(f"it cannot be loaded: {type(error).__name__}: {first_line(error)}"))
        else:
            self._load_seconds[name] = time.monotonic() - began
            self._waits.pop(name, None)
            self._leave(model.name for model in leave)
            self._leave_what_has_no_room(name)
        self.loading = None
        self._take()
        self._announce()

    def _leave_what_has_no_room(self, name: str) -> None:
        """If a model turns out to be larger than was thought, others leave as well: those held the longest."""
        for other, _ in sorted(self._held.items(), key=lambda one: one[1].since):
            if self._room() < 0 and other != name:
                self._leave([other])

    def _could_not(self, name: str, error: FarmError) -> None:
        self._served.refuse(name, error)
        if isinstance(error, CAN_PASS):
            before = self._waits.get(name)
            seconds = min(2 * before.seconds, LONGEST_WAIT) if before else FIRST_WAIT
            self._waits[name] = _Wait(time.monotonic() + seconds, seconds)


def _takes_jobs(worker: WorkerInfo) -> bool:
    return worker.state == "ready" and not worker.paused
