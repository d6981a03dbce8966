"""Which models a worker has in memory, in a farm in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from farm import keys
from farm.errors import ModelError, ModelUnavailable
from farm.ledger.timing import Timing
from tests.fakes.worker import FakeFarm
from tests.ledgers import a_worker
from tests.ledgers import job as new_job
from tests.waiting import eventually
from tests.worker.bucket.kept import put_model
from worker.bucket.catalogue import Catalogue
from worker.bucket.model_cache import ModelCache
from worker.job.supply import Supply
from worker.models.pool import ModelPool
from worker.models.registry import ModelRegistry, Source
from worker.models.service import FIRST_WAIT, LONGEST_WAIT, ModelService

BATCH = "0" * 16
AT_ONCE = Timing(again=0.05, models=0.05)


@dataclass(eq=False)
class FakeModel:
    size: int


class Worker:
    """The models of one worker, which take 10 bytes each in a memory of `room`."""

    def __init__(self, farm: FakeFarm, folder: Path, *given: str, room: int) -> None:
        self.farm = farm
        self.loaded: list[str] = []
        self.failures: dict[str, Exception] = {}
        self.while_loading: Callable[[str], None] = lambda _: None
        self.consumed: list[frozenset[str]] = []
        self.paused = False
        registry = ModelRegistry.from_options([f"{name}={folder}" for name in given])
        cache = ModelCache(folder / "cache", farm.storage, 1_000)
        self.catalogue = Catalogue(farm.storage, cache, registry, all_of_them=True)
        self.pool: ModelPool[FakeModel] = ModelPool(registry, room, self._load)
        self.served = ModelService(given, self.pool, ask_bucket=farm.storage.find_bucket)
        self.supply = Supply(
            "me",
            ledger=farm.ledger,
            catalogue=self.catalogue,
            served=self.served,
            pool=self.pool,
            consume=self._consume,
            announce=self._announce,
            images_per_minute=lambda: 60.0,
            is_paused=lambda: self.paused,
            leaving=threading.Event(),
            timing=AT_ONCE,
        )
        self.supply.refresh()
        self.served.load()
        self.supply.begin()

    def _load(self, name: str, _: Source) -> FakeModel:
        self.while_loading(name)
        if name in self.failures:
            raise self.failures[name]
        self.loaded.append(name)
        return FakeModel(10)

    def _consume(self, names: Collection[str]) -> None:
        self.consumed.append(frozenset(names))

    def _announce(self) -> None:
        models = self.served.served
        self.farm.ledger.announce(a_worker("me", models=models, warm=self.pool.warm, loading=self.supply.loading))

    @property
    def taken(self) -> set[str]:
        return set(self.served.taken)

    def sees(self) -> set[str]:
        """What its jobs are taken of after it has looked once."""
        self.supply._looked = float("-inf")
        self.supply.see_to_it()
        return self.taken


def wait_for(farm: FakeFarm, model: str, *, first: int, jobs: int = 1) -> None:
    farm.ledger.create(BATCH, [new_job(number, model=model) for number in range(first, first + jobs)])


def keep(farm: FakeFarm, *names: str) -> None:
    for name in names:
        put_model(farm.storage, name, x=name.encode())


def test_a_model_is_loaded_when_a_job_waits_for_it_and_not_before(farm: FakeFarm, tmp_path: Path) -> None:
    worker = Worker(farm, tmp_path, "own", room=100)
    keep(farm, "a", "b")
    assert worker.sees() == {"own"}
    assert worker.served.served == ("own", "a", "b"), "all of them are served"
    wait_for(farm, "b", first=0)
    announced: list[str | None] = []
    worker.while_loading = lambda _: announced.append(farm.ledger.workers()[0].loading)

    assert worker.sees() == {"own", "b"}

    assert worker.loaded == ["own", "b"]
    assert announced == ["b"], "others know of it meanwhile"
    assert worker.consumed[-1] == {"own", "b"}
    assert worker.supply.loading is None
    assert set(farm.ledger.workers()[0].warm) == {"own", "b"}


def test_jobs_of_others_are_taken_while_the_next_is_loaded(farm: FakeFarm, tmp_path: Path) -> None:
    worker = Worker(farm, tmp_path, "own", room=10)
    keep(farm, "a")
    wait_for(farm, "own", first=0)
    wait_for(farm, "a", first=1)
    for held in worker.supply._held.values():
        held.since -= 1_000
    taken: list[set[str]] = []
    worker.while_loading = lambda _: taken.append(worker.taken)
    assert worker.sees() == {"own"}, "its job has not waited for long"

    _let_it_wait(farm, 1_000)
    assert worker.sees() == {"a"}

    assert taken == [{"own"}]
    assert worker.pool.warm == ("a",)


def _let_it_wait(farm: FakeFarm, seconds: int) -> None:
    for record in farm.ledger._records.values():
        record.fields["submitted"] = str(int(record.fields["submitted"]) - 1_000 * seconds)


def test_what_has_no_jobs_leaves_before_the_next_comes_and_what_is_being_rendered_keeps_its_model(
    farm: FakeFarm, tmp_path: Path
) -> None:
    worker = Worker(farm, tmp_path, "own", room=10)
    keep(farm, "a")
    wait_for(farm, "a", first=0)
    worker.supply._held["own"].since -= 1_000
    warm: list[tuple[str, ...]] = []
    worker.while_loading = lambda _: warm.append(worker.pool.warm)
    rendering: AbstractContextManager[FakeModel] = worker.pool.using("own")
    with rendering:
        assert worker.sees() == {"a"}
        assert set(worker.pool.warm) == {"own", "a"}
        assert worker.sees() == {"a"}
    assert worker.pool.warm == ("a",)
    assert warm == [("own",)], "a job has it"

    wait_for(farm, "own", first=1)
    farm.ledger.cancel(f"{BATCH}-0000")
    worker.supply._held["a"].since -= 1_000
    assert worker.sees() == {"own"}
    assert warm[1] == (), "there was room before"


def test_a_model_that_was_only_given_comes_back_when_jobs_wait_for_it(farm: FakeFarm, tmp_path: Path) -> None:
    worker = Worker(farm, tmp_path, "one", "two", room=10)
    assert worker.taken == {"two"}, "there was room for the last"
    wait_for(farm, "one", first=0)
    worker.supply._held["two"].since -= 1_000
    assert worker.sees() == {"one"}


def test_a_worker_whose_models_all_find_room_asks_nobody(farm: FakeFarm, tmp_path: Path) -> None:
    worker = Worker(farm, tmp_path, "one", "two", room=20)
    farm.ledger.outage.begin()
    assert worker.sees() == {"one", "two"}
    assert worker.loaded == ["one", "two"]


def test_what_another_worker_has_or_has_begun_to_load_is_left_to_it(farm: FakeFarm, tmp_path: Path) -> None:
    worker = Worker(farm, tmp_path, "own", room=100)
    keep(farm, "a")
    wait_for(farm, "a", first=0)
    other = a_worker("other", models=("a",), warm=("a",))
    farm.ledger.announce(other)
    assert worker.sees() == {"own"}
    farm.ledger.announce(other.model_copy(update={"warm": (), "loading": "a"}))
    assert worker.sees() == {"own"}
    farm.ledger.announce(other.model_copy(update={"warm": ()}))
    assert farm.ledger.try_lock("load:a", "other", seconds=60)
    assert worker.sees() == {"own"}, "its announcement is on the way"

    farm.ledger.try_lock("load:a", "other", seconds=-1)
    farm.ledger.announce(other.model_copy(update={"paused": "its disk is full"}))
    assert worker.sees() == {"own", "a"}


def test_a_paused_worker_loads_nothing(farm: FakeFarm, tmp_path: Path) -> None:
    worker = Worker(farm, tmp_path, "own", room=100)
    keep(farm, "a")
    wait_for(farm, "a", first=0)
    worker.paused = True
    assert worker.sees() == {"own"}


def test_what_cannot_be_loaded_for_now_is_told_and_tried_again(
    farm: FakeFarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(farm, tmp_path, "own", room=100)
    keep(farm, "a")
    wait_for(farm, "a", first=0)
    worker.failures["a"] = ModelUnavailable("the disk is full")
    assert worker.sees() == worker.sees() == {"own"}
    assert worker.served.refused == {"a": "the disk is full"}
    assert caplog.text.count("the model 'a' is not served: the disk is full; it is tried again") == 1
    assert farm.status(f"{BATCH}-0000").state == "queued"

    del worker.failures["a"]
    assert worker.sees() == {"own"}, "not at once"
    worker.supply._waits["a"].until = 0
    assert worker.sees() == {"own", "a"}
    assert worker.served.refused == {}


def test_each_try_waits_twice_as_long(farm: FakeFarm, tmp_path: Path) -> None:
    worker = Worker(farm, tmp_path, "own", room=100)
    keep(farm, "a")
    wait_for(farm, "a", first=0)
    worker.failures["a"] = ModelUnavailable("the disk is full")
    waits = []
    for _ in range(9):
        worker.sees()
        waits.append(worker.supply._waits["a"].seconds)
        worker.supply._waits["a"].until = 0
    assert waits[:3] == [FIRST_WAIT, 2 * FIRST_WAIT, 4 * FIRST_WAIT]
    assert max(waits) == LONGEST_WAIT


def test_what_is_damaged_is_not_tried_again_until_it_is_added_once_more(farm: FakeFarm, tmp_path: Path) -> None:
    worker = Worker(farm, tmp_path, "own", room=100)
    keep(farm, "a")
    wait_for(farm, "a", first=0)
    worker.failures["a"] = ModelError("it is damaged")
    for _ in range(3):
        assert worker.sees() == {"own"}
    assert worker.served.refused == {"a": "it is damaged"}

    del worker.failures["a"]
    keep(farm, "a")
    assert worker.sees() == {"own", "a"}


def test_what_is_removed_is_forgotten_and_what_is_replaced_is_loaded_anew(farm: FakeFarm, tmp_path: Path) -> None:
    worker = Worker(farm, tmp_path, "own", room=100)
    keep(farm, "a")
    wait_for(farm, "a", first=0)
    worker.sees()
    put_model(farm.storage, "a", x=b"another")
    assert worker.sees() == {"own", "a"}
    assert worker.loaded == ["own", "a", "a"]

    farm.storage.delete(keys.model_manifest("a"))
    assert worker.sees() == {"own"}
    assert (worker.pool.warm, worker.served.served) == (("own",), ("own",))
    assert worker.consumed[-1] == {"own"}


def test_a_bucket_that_is_away_is_told_once_and_changes_nothing(
    farm: FakeFarm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(farm, tmp_path, "own", room=100)
    keep(farm, "a")
    wait_for(farm, "a", first=0)
    worker.sees()
    farm.storage.outage.begin()
    for _ in range(3):
        assert worker.sees() == {"own", "a"}
    assert caplog.text.count("which models the farm keeps is not known") == 1


def test_no_job_begins_with_what_was_replaced(farm: FakeFarm, tmp_path: Path) -> None:
    worker = Worker(farm, tmp_path, "own", room=100)
    keep(farm, "a")
    wait_for(farm, "a", first=0)
    assert worker.sees() == {"own", "a"}
    assert worker.supply.is_current("a") and worker.supply.is_current("own")

    def see() -> None:
        eventually(lambda: worker.supply._looked == float("-inf"), "it is asked to look")
        worker.supply.see_to_it()

    put_model(farm.storage, "a", x=b"another")
    seeing = threading.Thread(target=see)
    seeing.start()
    assert not worker.supply.is_current("a")
    seeing.join(60)
    assert worker.loaded == ["own", "a", "a"]
    assert worker.supply.is_current("a")

    farm.storage.outage.begin()
    assert worker.supply.is_current("a"), "nobody knows better"
    farm.storage.outage.end()
    farm.storage.delete(keys.model_manifest("a"))
    worker.supply._leaving.set()
    assert not worker.supply.is_current("a"), "it is kept no longer, and nobody waits for a worker that leaves"


def test_a_model_that_is_larger_than_was_thought_makes_others_leave(farm: FakeFarm, tmp_path: Path) -> None:
    worker = Worker(farm, tmp_path, "own", room=19)
    keep(farm, "a")  # of one byte in the bucket
    wait_for(farm, "a", first=0)
    assert worker.sees() == {"a"}
    assert worker.pool.warm == ("a",)


def test_what_is_replaced_by_what_cannot_be_loaded_is_refused(
    farm: FakeFarm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(farm, tmp_path, "own", room=100)
    keep(farm, "a")
    wait_for(farm, "a", first=0)
    worker.sees()
    put_model(farm.storage, "a", x=b"another")
    worker.failures["a"] = ModelError("it is damaged")
    assert worker.sees() == worker.sees() == {"own"}
    assert worker.served.refused == {"a": "it is damaged"}
    assert worker.pool.warm == ("own",)
    assert not any(record.exc_info for record in caplog.records)


def test_a_fault_in_a_library_is_told_once_and_costs_that_model_alone(
    farm: FakeFarm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(farm, tmp_path, "own", room=100)
    keep(farm, "a")
    wait_for(farm, "a", first=0)
    worker.failures["a"] = ZeroDivisionError("oh")
    assert worker.sees() == worker.sees() == {"own"}
    assert worker.supply.loading is None
    assert worker.served.refused == {"a": "it cannot be loaded: ZeroDivisionError: oh"}
    assert sum(bool(record.exc_info) for record in caplog.records) == 1
