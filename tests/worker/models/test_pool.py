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
        assert self.gate.wait(60)
        if self.failures:
            self.failures -= 1
            raise ModelError(f"the model '{name}' cannot be loaded")
        return FakeModel(name)


@pytest.fixture
def loader() -> FakeLoader:
    return FakeLoader()


def pool_of(loader: FakeLoader, *, budget: int) -> ModelPool[FakeModel]:
    return ModelPool(ModelRegistry({name: LocalDirectory(Path(name)) for name in NAMES}), budget, loader)


def acquired(pool: ModelPool[FakeModel], name: str) -> FakeModel:
    with pool.using(name) as model:
        return model


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
    with pool.using("a"):
        with pool.using("a"):
            pass
        assert list(pool.warm) == ["a"]
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
        waiting = [threads.submit(acquired, pool, "a") for _ in range(4)]
        assert loader.started.wait(60)
        assert pool.warm == ()
        loader.gate.set()
        models = {id(future.result(60)) for future in waiting}
    assert len(models) == 1
    assert loader.loaded == ["a"]


def test_loading_one_model_does_not_hold_up_another(loader: FakeLoader) -> None:
    pool = pool_of(loader, budget=100)
    use(pool, "b")
    loader.started.clear()
    loader.gate.clear()
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(acquired, pool, "a")
        assert loader.started.wait(60)
        use(pool, "b")
        loader.gate.set()
        assert slow.result(60).name == "a"


def test_a_failure_reaches_all_who_wait_and_is_forgotten(loader: FakeLoader) -> None:
    pool = pool_of(loader, budget=100)
    loader.failures = 1
    loader.gate.clear()
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(acquired, pool, "a") for _ in range(2)]
        assert loader.started.wait(60)
        sleep(0.05)  # for the second to be waiting too
        loader.gate.set()
        for future in waiting:
            with pytest.raises(ModelError, match="the model 'a' cannot be loaded"):
                future.result(60)
    assert loader.loaded == ["a"]
    use(pool, "a")
    assert loader.loaded == ["a", "a"]


def test_an_unknown_model_is_refused(loader: FakeLoader) -> None:
    with pytest.raises(ModelError, match="there is no model 'zzz'"):
        use(pool_of(loader, budget=1), "zzz")
    assert loader.loaded == []


def test_a_model_of_another_source_is_loaded_anew_and_those_who_have_the_old_one_keep_it() -> None:
    registry = ModelRegistry({"a": LocalDirectory(Path("old"))})
    pool = ModelPool(registry, 100, lambda name, source: FakeModel(f"{name} of {source}"))
    with pool.using("a") as old:
        registry.put("a", LocalDirectory(Path("new")))
        with pool.using("a") as new:
            assert (old.name, new.name) == ("a of old", "a of new")
    with pool.using("a") as again:
        assert again is new


def test_a_model_that_is_given_up_goes_before_those_that_were_used_longer_ago(loader: FakeLoader) -> None:
    pool = pool_of(loader, budget=20)
    use(pool, "a", "b")
    pool.give_up("b")
    use(pool, "c")
    assert pool.warm == ("a", "c")


def test_a_model_that_is_dropped_is_gone_when_nobody_has_it(loader: FakeLoader) -> None:
    pool = pool_of(loader, budget=20)
    with pool.using("a"):
        pool.drop("a")
        assert pool.warm == ()
    assert (pool.size("a"), pool.size("b")) == (10, None)
    pool.drop("never there")


def test_how_long_a_model_was_not_used_is_told(loader: FakeLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("worker.models.pool.monotonic", lambda: now[0])
    pool = pool_of(loader, budget=20)
    assert pool.idle("a") == 0
    with pool.using("a"):
        now[0] = 107.0
        assert pool.idle("a") == 7
    now[0] = 110.0
    assert pool.idle("a") == 3
