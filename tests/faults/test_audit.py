"""The audit finds what it is there to find: each thing that must not happen is done to a farm that was well."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm import keys
from farm.ledger.connection import PREFIX
from farm.ledger.ledger import Ledger
from tests.faults.audit import audit
from tests.faults.farm import FaultyFarm
from tests.faults.faults import Fault
from tests.launching import Forked
from tests.tiny import build_tiny_model

WAITS = "import signal; signal.pause()"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyFarm]:
    """A farm without workers any more, on which jobs ended in every way."""
    folder: Path = tmp_path_factory.mktemp("audit")
    farm = FaultyFarm(folder / "home", build_tiny_model(folder / "tiny"))
    try:
        worker = farm.worker("only")
        farm.start(worker)
        farm.submit(count=6, trace="numbers")
        farm.submit(losses=[{"name": "blue"}], steps=3, time_limit=0.001)
        farm.client.cancel(farm.submit(model="nobody"))
        assert farm.audited().states == {"done": 6, "failed": 1, "cancelled": 1}
        farm.retire(worker)
        yield farm
    finally:
        farm.close()


def complaints(farm: FaultyFarm) -> str:
    found = audit(farm.client, farm.submitted, farm.history, farm.faults)
    assert found.complaints, "the audit saw nothing"
    return str(found)


def a_job(farm: FaultyFarm, index: int) -> str:
    """One of the jobs that were done, for each test another."""
    return [status.id for status in farm.statuses(farm.submitted) if status.state == "done"][index]


def test_a_changed_object_is_found(sound: FaultyFarm) -> None:
    key = keys.attempt_object(a_job(sound, 0), 1, "image.png")
    good = sound.client.storage.get(key)
    sound.client.storage.put(key, good[:-1] + b"?", "image/png")

    assert f"{key} is not what its result says" in complaints(sound)

    sound.client.storage.put(key, good, "image/png")


def test_a_missing_object_is_found(sound: FaultyFarm) -> None:
    key = keys.attempt_object(a_job(sound, 1), 1, "trace.jsonl")
    good = sound.client.storage.get(key)
    sound.client.storage.delete(key)

    assert "there is no such object" in complaints(sound)

    sound.client.storage.put(key, good, "application/jsonl")


def test_a_missing_manifest_is_found(sound: FaultyFarm) -> None:
    key = keys.result(a_job(sound, 2))
    good = sound.client.storage.get(key)
    sound.client.storage.delete(key)

    assert "has no result.json" in complaints(sound)

    sound.client.storage.put(key, good, "application/json")


def test_a_second_result_is_found(sound: FaultyFarm) -> None:
    """As a zombie would leave it that overwrote the winner's."""
    job = a_job(sound, 3)
    good = sound.client.storage.get(keys.result(job))
    other = json.loads(good.replace(f"{job}/1/".encode(), f"{job}/2/".encode())) | {"attempt": 2}
    sound.client.storage.put(keys.result(job), json.dumps(other).encode(), "text/plain")

    assert "is not that of attempt 1" in complaints(sound)

    sound.client.storage.put(keys.result(job), good, "application/json")


def test_the_result_of_a_cancelled_job_is_found(sound: FaultyFarm) -> None:
    [cancelled] = [status.id for status in sound.statuses(sound.submitted) if status.state == "cancelled"]
    sound.client.storage.put(keys.result(cancelled), b"{}", "application/json")

    assert f"{cancelled}: is cancelled and has a result" in complaints(sound)

    sound.client.storage.delete(keys.result(cancelled))


def test_a_lost_job_is_found(sound: FaultyFarm) -> None:
    name = f"{PREFIX}:job:{a_job(sound, 4)}"
    sound.client.ledger.redis.rename(name, "kept")

    assert "submitted, and not in the ledger" in complaints(sound)

    sound.client.ledger.redis.rename("kept", name)


def test_an_index_that_differs_is_found(sound: FaultyFarm) -> None:
    index = f"{PREFIX}:state:running"
    sound.client.ledger.redis.zadd(index, {a_job(sound, 5): 1})

    assert "the index of the running differs" in complaints(sound)

    sound.client.ledger.redis.zrem(index, a_job(sound, 5))


def test_a_job_that_is_not_over_and_its_message_are_found(sound: FaultyFarm) -> None:
    [job] = sound.submit(model="nobody")

    said = complaints(sound)

    assert f"{job}: is queued" in said
    assert f"waiting:nobody still names ['{job}']" in said
    assert f"holds a message of {job}" in said
    sound.client.cancel([job])


def test_an_attempt_that_nothing_explains_is_found(sound: FaultyFarm) -> None:
    """And one that a fault explains is not: only if it was done to the worker that had the job, in that time."""
    [job] = sound.submit(model="nobody")
    ledger: Ledger = sound.client.ledger
    assert ledger.claim(job, "silent-0000", lease=0.0)
    [reaped] = ledger.reap()
    assert ledger.claim(reaped.job, "other-0000")
    sound.client.cancel([job])

    assert "attempt 1 by silent-0000 ended by no fault (lapsed)" in complaints(sound)

    for fault in (
        Fault("kill -9", "other", may_cost=True),
        Fault("redis killed", may_cost=False),
        Fault("worker frozen", "silent", may_cost=True, began=0, ended=1),
        Fault("kill -9", "silent", may_cost=True, fatal=True, began=0, ended=1),
    ):
        sound.faults[:] = [fault]
        assert "ended by no fault" in complaints(sound), fault
    sound.faults[:] = [Fault("kill -9", "silent", may_cost=True, began=sound.history.of(job)[0].at)]
    assert not audit(sound.client, sound.submitted, sound.history, sound.faults).complaints


def test_what_a_failed_test_leaves_disturbs_no_other(sound: FaultyFarm) -> None:
    """Its worker would take the jobs of the next one, and its jobs would never be over."""
    earlier, own = (sound.worker(name, command=(sys.executable, "-c", WAITS)) for name in ("earlier", "own"))
    earlier.start()
    before, submitted = sound.mark(), list(sound.submitted)
    own.start()
    [job] = sound.submit(model="nobody")
    with pytest.raises(AssertionError, match="another own runs"):
        sound.worker("own")

    sound.end_since(before)

    assert [worker.is_running for worker in (earlier, own)] == [True, False]
    assert [status.state for status in sound.statuses([job])] == ["cancelled"]
    assert sound.submitted == submitted
    earlier.kill()


def test_the_log_of_a_worker_can_be_read_before_it_says_anything(tmp_path: Path) -> None:
    """And if it cannot even begin, the log says why."""
    log = tmp_path / "log"
    worker = Forked((), environment={}, log=log, folder=tmp_path / "nowhere")
    assert log.exists()

    assert worker.wait(60) == 1
    assert "FileNotFoundError" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("fatal", "requeued", "explained"), [(False, 70, True), (False, 100, False), (True, 100, True)]
)
def test_only_what_a_worker_died_of_explains_a_late_lapse(fatal: bool, requeued: float, explained: bool) -> None:
    """Redis may have been away meanwhile, as often as it takes; but a worker that lives keeps its leases."""
    fault = Fault("a fault", "w1", may_cost=True, fatal=fatal, began=20, ended=21)

    assert fault.explains(worker="w1-8be4", claimed=10, requeued=requeued) is explained
    assert not fault.explains(worker="w1-8be5", claimed=30, requeued=requeued), "its successor did not die of it"
