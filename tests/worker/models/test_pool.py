from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import sleep

import pytest

from farm.errors import ModelError
from worker.models.pool import ModelPool
from worker.models.registry import LocalDirectory, ModelRegistry, Source

NAMES = ("a", "b", "c")


@dataclass(eq=False)
class FakeModel:
    name: str
    size: int = 10


class FakeLoader:
    """Loads at once, or when `gate` opens; the next `failures` loads fail."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.failures = 0
        self.started = Event()
        self.gate = Event()
        self.gate.set()

    def __call__(self, name: str, source: Source) -> FakeModel:
        assert isinstance(source, LocalDirectory)
        self.loaded.append(name)
        self.started.set()
        assert self.gate.wait(10)
        if self.failures:
            self.failures -= 1
            raise ModelError(f"the model '{name}' cannot be loaded")
        return FakeModel(name)


@pytest.fixture
def loader() -> FakeLoader:
    return FakeLoader()


def pool_of(loader: FakeLoader, *, budget: int) -> ModelPool[FakeModel]:
    return ModelPool(ModelRegistry({name: LocalDirectory(Path(name)) for name in NAMES}), budget, loader)


def use(pool: ModelPool[FakeModel], *names: str) -> None:
    for name in names:
        with pool.using(name) as model:
            assert model.name == name


def test_a_model_is_loaded_once_and_stays_warm(loader: FakeLoader) -> None:
    pool = pool_of(loader, budget=10)
    use(pool, "a", "a")
    assert loader.loaded == ["a"]
    assert pool.warm == ("a",)


def test_the_least_recently_used_goes_first(loader: FakeLoader) -> None:
    pool = pool_of(loader, budget=20)
    use(pool, "a", "b", "a", "c")
    assert pool.warm == ("a", "c")
    use(pool, "b")
    assert loader.loaded == ["a", "b", "c", "b"]


def test_a_model_in_use_is_never_dropped(loader: FakeLoader) -> None:
    pool = pool_of(loader, budget=10)
    with pool.using("a"), pool.using("b"):
        use(pool, "c")
        assert set(pool.warm) == {"a", "b"}
    assert len(pool.warm) == 1


def test_two_users_must_both_release(loader: FakeLoader) -> None:
    pool = pool_of(loader, budget=0)
    pool.acquire("a")
    pool.acquire("a")
    pool.release("a")
    assert list(pool.warm) == ["a"]
    pool.release("a")
    assert not pool.warm


def test_a_dropped_model_is_freed_before_the_device_is_told(loader: FakeLoader) -> None:
    alive: list[bool] = []
    registry = ModelRegistry({name: LocalDirectory(Path(name)) for name in NAMES})
    pool = ModelPool(registry, 10, loader, on_drop=lambda: alive.append(first() is not None))
    with pool.using("a") as model:
        first = weakref.ref(model)
        del model
    gc.disable()
    try:
        use(pool, "b")
    finally:
        gc.enable()
    assert alive == [False]


def test_requests_for_one_model_at_once_load_it_once(loader: FakeLoader) -> None:
    pool = pool_of(loader, budget=100)
    loader.gate.clear()
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(pool.acquire, "a") for _ in range(4)]
        assert loader.started.wait(10)
        assert pool.warm == ()
        loader.gate.set()
        models = {id(future.result(10)) for future in waiting}
    assert len(models) == 1
    assert loader.loaded == ["a"]


def test_loading_one_model_does_not_hold_up_another(loader: FakeLoader) -> None:
    pool = pool_of(loader, budget=100)
    use(pool, "b")
    loader.started.clear()
    loader.gate.clear()
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(pool.acquire, "a")
        assert loader.started.wait(10)
        use(pool, "b")
        loader.gate.set()
        assert slow.result(10).name == "a"


def test_a_failure_reaches_all_who_wait_and_is_forgotten(loader: FakeLoader) -> None:
    pool = pool_of(loader, budget=100)
    loader.failures = 1
    loader.gate.clear()
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(pool.acquire, "a") for _ in range(2)]
        assert loader.started.wait(10)
        sleep(0.05)  # for the second to be waiting too
        loader.gate.set()
        for future in waiting:
            with pytest.raises(ModelError, match="the model 'a' cannot be loaded"):
                future.result(10)
    assert loader.loaded == ["a"]
    use(pool, "a")
    assert loader.loaded == ["a", "a"]


def test_an_unknown_model_is_refused(loader: FakeLoader) -> None:
    with pytest.raises(ModelError, match="there is no model 'zzz'"):
        pool_of(loader, budget=1).acquire("zzz")
    assert loader.loaded == []
