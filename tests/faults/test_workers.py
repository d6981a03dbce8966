"""Workers that are killed and workers that freeze, beside one that is well and must not notice."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.farm import FaultyFarm
from tests.faults.plugin import paced
from tests.faults.processes import Process
from tests.timing import SHORT
from tests.waiting import eventually

RESUMED_WITHIN = SHORT.lease + 15.0
"""As half a minute is to a lease that is not short."""
LONG_JOB_SECONDS = float(os.environ.get("FAULT_LONG_JOB_SECONDS", "30"))
"""600 is what was promised; seven leases and seventy rounds of the reaper are what every run of the tests sees."""

SOME_SECONDS: dict[str, Any] = {"steps": 20, **paced(0.08)}

Pair = tuple[Process, Process]


@pytest.fixture(scope="module", autouse=True)
def long_job(unaudited_farm: FaultyFarm) -> Iterator[str]:
    """A job that a healthy worker renders all the while that the tests of this file ruin its neighbours."""
    unaudited_farm.start(unaudited_farm.worker("healthy", model="steady"))
    steps = 300
    [job] = unaudited_farm.submit(model="steady", steps=steps, **paced(LONG_JOB_SECONDS / (steps / 10), every=10))
    unaudited_farm.submitted.remove(job)  # it is not over when the others are audited
    yield job


def let_reap(farm: FaultyFarm, worker: Process) -> None:
    """Of all workers, this one holds the reapers' lock from now on."""
    info = farm.info(worker)
    assert info is not None
    farm.client.ledger.redis.set("farm:lock:reaper", info.id, px=round(1000 * farm.timing.reaper_lock))


@pytest.mark.parametrize("who_dies", ["the one that reaps", "another"])
def test_jobs_of_a_killed_worker_are_resumed_in_half_a_minute(
    farm: FaultyFarm, pair: Pair, chance: random.Random, who_dies: str
) -> None:
    victim, heir = chance.sample(pair, 2)
    jobs = farm.submit(count=8, **SOME_SECONDS)
    farm.until_running(jobs)
    time.sleep(chance.uniform(0, 1))
    let_reap(farm, victim if who_dies == "the one that reaps" else heir)
    in_hand = farm.held_by(victim, jobs)
    assert in_hand, "the victim holds nothing"

    fault = farm.kill(victim)

    statuses = {status.id: status for status in farm.until_over(jobs)}
    assert {status.state for status in statuses.values()} == {"done"}
    again = [job for job in in_hand if statuses[job].attempt == 2]
    assert again, "the victim had done everything before it died"
    for job in again:
        resumed = farm.history.claims(job)[1]
        assert (resumed.worker or "").startswith(f"{heir.name}-")
        assert resumed.at - fault.began <= RESUMED_WITHIN
    assert {statuses[job].attempt for job in jobs if job not in in_hand} <= {1}


def test_a_worker_that_wakes_after_its_lease_finds_its_jobs_gone(
    farm: FaultyFarm, pair: Pair, chance: random.Random
) -> None:
    """It held the reapers' lock as well, and two others reap: each job is queued again once."""
    zombie, heir = chance.sample(pair, 2)
    jobs = farm.submit(count=8, **SOME_SECONDS)
    farm.until_running(jobs)
    time.sleep(chance.uniform(0, 1))
    let_reap(farm, zombie)
    with farm.frozen(zombie):
        in_hand = farm.held_by(zombie, jobs)
        assert in_hand, "the zombie holds nothing"
        eventually(lambda: all(len(farm.history.claims(job)) == 2 for job in in_hand), "the heir has them")
        time.sleep(chance.uniform(0, 3))

    for status in farm.until_over(jobs):
        assert status.state == "done"
        assert status.attempt == (2 if status.id in in_hand else 1)
        if status.id in in_hand:
            assert (status.worker or "").startswith(f"{heir.name}-")
            assert [happening.why for happening in farm.history.of(status.id) if happening.why] == ["lapsed"]
    assert zombie.is_running, "waking too late is no reason to end"


def test_a_zombies_finish_is_refused_and_the_winners_objects_stay(
    farm: FaultyFarm, pair: Pair, chance: random.Random
) -> None:
    """It freezes with its pictures drawn, and goes on storing them when another has long finished."""
    zombie, heir = chance.sample(pair, 2)
    jobs = farm.submit(count=6, **SOME_SECONDS)
    farm.until_running(jobs)
    in_hand = farm.held_by(zombie, jobs)
    assert in_hand, "the zombie holds nothing"
    with farm.frozen(farm.s3):
        eventually(lambda: all(s.step == s.steps for s in farm.statuses(in_hand)), "they wait for the bucket only")
        time.sleep(chance.uniform(0, 1))
        with farm.frozen(zombie):
            farm.s3.thaw()
            statuses = farm.until_over(in_hand)
            winners = {job: farm.client.result(job) for job in in_hand}

    assert {(status.state, status.attempt) for status in statuses} == {("done", 2)}
    assert all((status.worker or "").startswith(f"{heir.name}-") for status in statuses)
    eventually(
        lambda: all(f"job {job} was cancelled or is another worker's by now" in zombie.last_words for job in in_hand),
        "the zombie is refused",
    )
    assert {job: farm.client.result(job) for job in in_hand} == winners


def test_a_long_job_of_a_healthy_worker_has_one_attempt(farm: FaultyFarm, long_job: str) -> None:
    """It ran while the tests above killed and froze the workers beside it."""
    [status] = farm.until_over([long_job], within=2 * LONG_JOB_SECONDS + 240)
    farm.submitted.append(long_job)

    assert (status.state, status.attempt) == ("done", 1)
    assert status.started and status.finished
    assert (status.finished - status.started).total_seconds() > max(LONG_JOB_SECONDS, 3 * farm.timing.lease)
