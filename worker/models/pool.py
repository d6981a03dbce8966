"""Models kept warm as memory allows: least recently used out first, and never one in use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Generic, Protocol, TypeVar

from worker.models.registry import ModelRegistry, Source


class HasSize(Protocol):
    @property
    def size(self) -> int:
        """Bytes of memory taken."""


Model = TypeVar("Model", bound=HasSize)


@dataclass
class _Entry(Generic[Model]):
    """A model that is loaded or being loaded, and how many hold it."""

    loaded: Future[Model]
    users: int = 0


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

    @property
    def warm(self) -> tuple[str, ...]:
        """Names of the models in memory, least recently used first."""
        with self._lock:
            return tuple(name for name, entry in self._entries.items() if _is_loaded(entry))

    def acquire(self, name: str) -> Model:
        """The model `name`, loaded if it is not warm, and kept until `release`.

        Raises `ModelError` if it is unknown or cannot be loaded; the next call tries again.
        """
        source = self._registry.source(name)
        with self._lock:
            entry = self._entries.get(name)
            is_ours_to_load = entry is None
            if entry is None:
                entry = self._entries[name] = _Entry(Future())
            entry.users += 1
            self._entries.move_to_end(name)
        if is_ours_to_load:
            self._fill(name, source, entry)
        return entry.loaded.result()

    def release(self, name: str) -> None:
        """Give back what `acquire` gave."""
        with self._lock:
            self._entries[name].users -= 1
        self._shrink()

    @contextmanager
    def using(self, name: str) -> Iterator[Model]:
        """The model `name`, acquired for the block."""
        model = self.acquire(name)
        try:
            yield model
        finally:
            self.release(name)

    def _fill(self, name: str, source: Source, entry: _Entry[Model]) -> None:
        try:
            model = self._load(name, source)
        except BaseException as error:
            with self._lock:
                del self._entries[name]
            entry.loaded.set_exception(error)
            return
        entry.loaded.set_result(model)
        self._shrink()

    def _shrink(self) -> None:
        if self._drop_unused():
            self._on_drop()

    def _drop_unused(self) -> bool:
        """Forget unused models while all exceed the budget; whether any was. Holds on to none of them."""
        with self._lock:
            loaded = [(name, entry) for name, entry in self._entries.items() if _is_loaded(entry)]
            total = sum(entry.loaded.result().size for _, entry in loaded)
            before = len(self._entries)
            for name, entry in loaded:
                if total > self._budget and entry.users == 0:
                    total -= entry.loaded.result().size
                    del self._entries[name]
            return len(self._entries) < before


def _is_loaded(entry: _Entry[Model]) -> bool:
    return entry.loaded.done() and entry.loaded.exception() is None
