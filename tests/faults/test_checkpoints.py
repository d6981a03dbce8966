"""Checkpoints by time, so that a killed worker costs a long job at most the time between two of them."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from farm import keys
from tests.faults.farm import FaultyFarm
from tests.faults.plugin import paced
from tests.faults.processes import Process
from tests.waiting import eventually

LONG = {"steps": 50, **paced(0.5, every=5)}


def in_bucket(farm: FaultyFarm, job: str) -> list[str]:
    """The checkpoints of a job that the bucket holds."""
    names = [stored.key for stored in farm.client.storage.list(keys.job_prefix(job))]
    return [name for name in names if name.endswith("checkpoint.safetensors")]


def until_checkpointed(worker: Process, *jobs: str) -> None:
    """Wait until the bucket has a checkpoint of each job, and the ledger names it."""
    for job in jobs:
        eventually(says(worker, f"job {job} is checkpointed"), f"{job} is checkpointed")


def says(worker: Process, text: str) -> Callable[[], bool]:
    return lambda: text in worker.log.read_text(encoding="utf-8")


@pytest.fixture
def two(farm: FaultyFarm) -> tuple[Process, Process]:
    """Two workers that checkpoint often; the first one runs."""
    victim = farm.worker("victim", "--checkpoint-seconds", "1", "--deterministic", "--rows", "8", model="kept")
    heir = farm.worker("heir", "--checkpoint-seconds", "0", "--deterministic", "--rows", "8", model="kept")
    farm.start(victim)
    return victim, heir


def test_a_killed_worker_costs_at_most_the_steps_since_the_last_checkpoint(
    farm: FaultyFarm, two: tuple[Process, Process], chance: random.Random
) -> None:
    victim, heir = two
    fields = {"model": "kept", "trace": "frames", "seed": chance.randrange(1000), **LONG}
    [undisturbed, job] = (farm.submit(**fields)[0] for _ in range(2))
    until_checkpointed(victim, job, undisturbed)
    farm.until_running([job], step=chance.randrange(12, 25))

    farm.kill(victim)
    farm.start(heir)
    over = farm.until_over([undisturbed, job])

    assert {(status.state, status.attempt) for status in over} == {("done", 2)}
    assert f"job {job} goes on from step" in heir.last_words
    [other] = farm.submit(**fields)  # in one go, on the heir
    farm.until_over([other])
    named = [{name: (o.sha256, o.size) for name, o in farm.client.result(one).objects.items()} for one in (job, other)]
    assert named[0] == named[1], "the same picture and the same frames as in one go"
    eventually(lambda: not in_bucket(farm, job), "nothing of it is left soon after the job is done")
    farm.retire(heir)


def test_a_job_goes_on_from_its_checkpoint_even_when_redis_was_lost(
    farm: FaultyFarm, two: tuple[Process, Process]
) -> None:
    victim, heir = two
    [job] = farm.submit(model="kept", **LONG)
    until_checkpointed(victim, job)
    farm.kill(victim)
    farm.lose_redis()

    farm.shell("recover")
    farm.start(heir)

    assert [status.state for status in farm.until_over([job])] == ["done"]
    assert f"job {job} goes on from step" in heir.last_words
    farm.retire(heir)


def test_a_short_job_is_not_checkpointed(farm: FaultyFarm, two: tuple[Process, Process]) -> None:
    victim, _ = two
    jobs = farm.submit(model="kept", count=5, steps=3)
    farm.until_over(jobs)

    assert not [job for job in jobs if f"{job} is checkpointed" in victim.log.read_text(encoding="utf-8")]
    farm.retire(victim)


def test_a_job_whose_checkpoint_cannot_be_used_starts_over(farm: FaultyFarm, two: tuple[Process, Process]) -> None:
    victim, heir = two
    [cut, others, gone, whole] = jobs = farm.submit(model="kept", count=4, steps=50, **paced(0.2, every=5))
    until_checkpointed(victim, *jobs)
    farm.kill(victim)
    storage = farm.client.storage
    kept = {job: storage.get(keys.checkpoint(job, 1)) for job in (cut, whole)}
    for job, data in ((cut, kept[cut][: len(kept[cut]) // 2]), (others, kept[whole])):
        storage.put(keys.checkpoint(job, 1), data, "application/octet-stream")
    storage.delete(keys.checkpoint(gone, 1))

    farm.start(heir)
    over = farm.until_over(jobs)

    assert {(status.state, status.attempt) for status in over} == {("done", 2)}
    told = heir.log.read_text(encoding="utf-8")
    assert [f"job {job} starts over" in told for job in jobs] == [True, True, True, False]
    assert [f"job {job} goes on from step" in told for job in jobs] == [False, False, False, True]
    farm.retire(heir)


def test_the_checkpoint_of_a_cancelled_job_is_removed(farm: FaultyFarm, two: tuple[Process, Process]) -> None:
    victim, _ = two
    [running] = farm.submit(model="kept", **LONG)
    until_checkpointed(victim, running)
    farm.client.cancel([running])
    eventually(lambda: not in_bucket(farm, running), "the worker has removed it")

    [queued] = farm.submit(model="kept", **LONG)
    farm.until_running([queued], step=2)
    with farm.fault("SIGTERM", victim, may_cost=True):
        victim.ask_to_leave()
        victim.wait()
    assert in_bucket(farm, queued)
    farm.client.cancel([queued])
    assert not in_bucket(farm, queued)
