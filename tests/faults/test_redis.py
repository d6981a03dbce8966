"""Redis loses its connections, dies and freezes; the workers and their jobs go on."""

from __future__ import annotations

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from farm.jobs.status import JobStatus
from farm.ledger.ledger import Ledger
from farm.ledger.timing import Timing
from tests.faults.farm import FaultyFarm
from tests.faults.plugin import paced
from tests.faults.processes import Process
from tests.timing import SHORT

FREEZE_SECONDS = float(os.environ.get("FAULT_FREEZE_SECONDS", "11"))
"""Longer than a lease, and than any of the workers waits for an answer of Redis."""
_PATIENCE = FREEZE_SECONDS - 3

# A worker whose connections wait for an answer for so long at the most: with FAULT_FREEZE_SECONDS=35, as long as ever.
IMPATIENT = f"""
import runpy
from redis.connection import AbstractConnection

made = AbstractConnection.__init__

def impatient(connection, *arguments, socket_timeout=None, **more):
    made(connection, *arguments, socket_timeout=min(socket_timeout or {_PATIENCE}, {_PATIENCE}), **more)

AbstractConnection.__init__ = impatient
runpy.run_module("worker", run_name="__main__")
"""
SOME_SECONDS: dict[str, Any] = {"steps": 20, **paced(0.2)}

Pair = tuple[Process, Process]


@pytest.fixture(scope="module")
def timing() -> Timing:
    """On a busy machine it takes seconds until both workers have found their way back to Redis."""
    return SHORT.model_copy(update={"lease": 8.0})


@pytest.fixture
def busy(farm: FaultyFarm) -> Pair:
    """A worker with more jobs than slots, and one that is partly idle: both sides of a consumer."""
    full = farm.workers.get("full") or farm.worker("full", "--slots", "2", model="wanted", script=IMPATIENT)
    idle = farm.workers.get("idle") or farm.worker("idle", model="spared", script=IMPATIENT)
    farm.start(*(worker for worker in (full, idle) if not worker.is_running))
    return full, idle


def submit_to_both(farm: FaultyFarm, *, seconds: float = 10.0) -> list[str]:
    """To the idle one a job that takes so long."""
    jobs = farm.submit(model="wanted", count=3, **SOME_SECONDS)
    one = farm.submit(model="spared", steps=round(seconds / 0.2), **paced(0.8, every=4))
    farm.until_running([*jobs[:2], *one])
    return [*jobs, *one]


def done_at_once(statuses: list[JobStatus]) -> bool:
    return {(status.state, status.attempt) for status in statuses} == {("done", 1)}


def test_losing_every_connection_again_and_again_reruns_nothing(
    farm: FaultyFarm, busy: Pair, chance: random.Random
) -> None:
    jobs = submit_to_both(farm)
    pids = [worker.pid for worker in busy]

    with farm.fault("connections killed"):
        for _ in range(5):
            time.sleep(chance.uniform(0, 1.2))
            for kind in ("normal", "pubsub"):
                farm.client.ledger.redis.client_kill_filter(_type=kind)

    assert done_at_once(farm.until_over(jobs))
    assert [worker.pid for worker in busy if worker.is_running] == pids


@pytest.mark.parametrize("leases", [0.0, 1.0], ids=["briefly", "past every lease"])
def test_a_restarted_redis_finds_the_same_workers_at_the_same_jobs(
    farm: FaultyFarm, busy: Pair, chance: random.Random, leases: float
) -> None:
    jobs = submit_to_both(farm, seconds=10.0 + leases * farm.timing.lease)
    pids = [worker.pid for worker in busy]
    time.sleep(chance.uniform(0, 1))

    with farm.without_redis():
        time.sleep(leases * farm.timing.lease + chance.uniform(0, 3))

    assert done_at_once(farm.until_over(jobs))
    later = farm.submit(model="wanted", count=4) + farm.submit(model="spared", count=4)
    assert done_at_once(farm.until_over(later))
    assert [worker.pid for worker in busy if worker.is_running] == pids


def test_nobody_is_declared_dead_for_a_redis_that_froze(farm: FaultyFarm, busy: Pair, chance: random.Random) -> None:
    jobs = submit_to_both(farm)
    pids = [worker.pid for worker in busy]
    time.sleep(chance.uniform(0, 1))

    with farm.frozen(farm.redis), ThreadPoolExecutor() as reapers:
        # One reaper was just about to look for lapsed leases: Redis will read its request before any renewal.
        caught = reapers.submit(lambda: Ledger(farm.where).reap(window=farm.timing.window))
        time.sleep(FREEZE_SECONDS)
        farm.redis.thaw()
        assert caught.result(60) == []

    assert done_at_once(farm.until_over(jobs))
    later = farm.submit(model="wanted", count=4) + farm.submit(model="spared", count=4)
    assert done_at_once(farm.until_over(later))
    assert [worker.pid for worker in busy if worker.is_running] == pids
