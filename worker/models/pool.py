"""Models kept warm as memory allows: least recently used out first, and never one in use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic
from typing import Generic, Protocol, TypeVar

from worker.models.registry import ModelRegistry, Source


class HasSize(Protocol):
    @property
    def size(self) -> int:
        """Bytes of memory taken."""


Model = TypeVar("Model", bound=HasSize)


@dataclass
class _Entry(Generic[Model]):
    """A model that is loaded or being loaded from its source, and how many hold it."""

    source: Source
    loaded: Future[Model]
    users: int = 0
    used: float = field(default_factory=monotonic)


class ModelPool(Generic[Model]):
    """Loads models by name and shares them between threads.

    `load(name, source)` makes a model; it runs outside the pool's lock, once for all who wait for that model.
    Unused models are dropped while all together exceed `budget_bytes`; those in use may exceed it.
    `on_drop`, if given, is called after models were dropped, such as to hand cached memory back to the device.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        budget_bytes: int,
        load: Callable[[str, Source], Model],
        *,
        on_drop: Callable[[], None] = lambda: None,
    ) -> None:
        self._registry = registry
        self._budget = budget_bytes
        self._load = load
        self._on_drop = on_drop
        self._lock = Lock()
        self._entries: OrderedDict[str, _Entry[Model]] = OrderedDict()
        self._sizes: dict[str, int] = {}

    @property
    def warm(self) -> tuple[str, ...]:
        """Names of the models in memory, least recently used first."""
        with self._lock:
            return tuple(name for name, entry in self._entries.items() if _is_loaded(entry))

    @property
    def budget(self) -> int:
        """Bytes that all models may take together."""
        return self._budget

    def size(self, name: str) -> int | None:
        """Bytes that a model takes; None of one that was never loaded."""
        return self._sizes.get(name)

    def idle(self, name: str) -> float:
        """For how many seconds nobody has begun or finished using a model; 0 for one that is not there."""
        with self._lock:
            entry = self._entries.get(name)
        return monotonic() - entry.used if entry else 0.0

    @contextmanager
    def using(self, name: str) -> Iterator[Model]:
        """The model `name`, loaded if it is not warm, and kept for the block.

        Raises `ModelError` if it is unknown or cannot be loaded; the next call tries again. One whose source is another
        by now is loaded anew; those who have the old one keep it.
        """
        source = self._registry.source(name)
        with self._lock:
            entry = self._entries.get(name)
            if is_ours_to_load := entry is None or entry.source != source:
                entry = self._entries[name] = _Entry(source, Future())
            assert entry
            entry.users += 1
            entry.used = monotonic()
            self._entries.move_to_end(name)
        if is_ours_to_load:
            self._fill(name, source, entry)
        try:
            yield entry.loaded.result()
        finally:
            with self._lock:
                entry.users -= 1
                entry.used = monotonic()
            del entry  # which would hold on to a model that is dropped now
            self._shrink()

    def give_up(self, name: str) -> None:
        """Let a model be the first to go."""
        with self._lock:
            if name in self._entries:
                self._entries.move_to_end(name, last=False)

    def make_room(self, size: int) -> None:
        """Drop unused models until so many bytes more are within the budget."""
        self._shrink(size)

    def drop(self, name: str) -> None:
        """Forget a model that is not to be had any more; those who have it keep it."""
        with self._lock:
            self._entries.pop(name, None)
        self._on_drop()

    def _fill(self, name: str, source: Source, entry: _Entry[Model]) -> None:
        try:
            model = self._load(name, source)
        except BaseException as error:
            with self._lock:
                if self._entries.get(name) is entry:
                    del self._entries[name]
            entry.loaded.set_exception(error)
            return
        self._sizes[name] = model.size
        entry.loaded.set_result(model)
        self._shrink()

    def _shrink(self, more: int = 0) -> None:
        if self._drop_unused(more):
            self._on_drop()

    def _drop_unused(self, more: int) -> bool:
        """Forget unused models while all, and so many bytes more, exceed the budget; whether any was. Holds on to none
        of them."""
        with self._lock:
            loaded = [(name, entry) for name, entry in self._entries.items() if _is_loaded(entry)]
            total = more + sum(entry.loaded.result().size for _, entry in loaded)
            before = len(self._entries)
            for name, entry in loaded:
                if total > self._budget and entry.users == 0:
                    total -= entry.loaded.result().size
                    del self._entries[name]
            return len(self._entries) < before


def _is_loaded(entry: _Entry[Model]) -> bool:
    return entry.loaded.done() and entry.loaded.exception() is None
