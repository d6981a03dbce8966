"""Jobs are cancelled at every moment of their lives, and what was cancelled stays so."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from farm.jobs.status import State
from tests.faults.farm import FaultyFarm
from tests.faults.plugin import paced
from tests.faults.processes import Process
from tests.waiting import eventually


@pytest.fixture
def worker(farm: FaultyFarm) -> Process:
    """It has more slots than rows, so that some jobs are claimed and not begun. It runs."""
    worker = farm.workers.get("only") or farm.worker("only", "--slots", "12", "--rows", "8")
    if not worker.is_running:
        farm.start(worker)
    return worker


def cancel(farm: FaultyFarm, *jobs: str) -> dict[str, State]:
    return farm.client.cancel(jobs)


def until_idle(farm: FaultyFarm, worker: Process) -> None:
    """Wait until the worker has nothing in hand."""

    def has_nothing() -> bool:
        info = farm.info(worker)
        return info is not None and info.jobs == 0

    eventually(has_nothing, "the worker has let go of everything")


def test_whenever_it_comes_a_cancellation_holds_or_says_that_it_came_too_late(
    farm: FaultyFarm, worker: Process, chance: random.Random
) -> None:
    """Thirty jobs, of which a dozen are in flight, each cancelled at a moment of its own."""
    jobs = farm.submit(count=30, steps=6, **paced(0.05))
    moments = {job: chance.uniform(0, 6) for job in jobs}
    began = time.monotonic()

    def cancel_in_time(job: str) -> State:
        time.sleep(max(0.0, began + moments[job] - time.monotonic()))
        return cancel(farm, job)[job]

    with ThreadPoolExecutor(len(jobs)) as cancelling:
        before = dict(zip(jobs, cancelling.map(cancel_in_time, jobs), strict=True))
    states = {status.id: status.state for status in farm.until_over(jobs)}

    for job in jobs:
        assert states[job] == ("done" if before[job] == "done" else "cancelled"), before[job]
    until_idle(farm, worker)


def test_a_job_that_is_claimed_and_has_not_begun(farm: FaultyFarm, worker: Process) -> None:
    """Eight rows are taken by jobs before it; it waits in its slot."""
    others = farm.submit(count=8, steps=20, **paced(0.1))
    farm.until_running(others)
    [job] = farm.submit(steps=20)
    eventually(lambda: farm.statuses([job])[0].state == "running", "it is claimed")

    assert cancel(farm, job) == {job: "running"}

    assert (farm.statuses([job])[0].state, farm.statuses([job])[0].step) == ("cancelled", 0)
    assert {status.state for status in farm.until_over(others)} == {"done"}


def test_a_job_in_mid_step_takes_no_further_one(farm: FaultyFarm, worker: Process, chance: random.Random) -> None:
    """Each step takes two seconds and leaves a note when it begins: at most one begins before the word is out."""
    paces = farm.flags / "paces"
    [job] = farm.submit(steps=100, **paced(2.0))
    farm.until_running([job])
    time.sleep(chance.uniform(0, 2))
    begun = paces.read_text(encoding="utf-8").count("\n")

    assert cancel(farm, job) == {job: "running"}

    assert farm.statuses([job])[0].state == "cancelled", "at once, for all who ask"
    until_idle(farm, worker)
    assert paces.read_text(encoding="utf-8").count("\n") - begun <= 1


def test_a_job_at_its_finish(farm: FaultyFarm, worker: Process) -> None:
    """It is drawn, and being stored: what is stored of it does not count any more."""
    jobs = farm.submit(count=3, steps=15, **paced(0.1))
    farm.until_running(jobs)
    with farm.frozen(farm.s3):
        eventually(lambda: all(s.step == s.steps for s in farm.statuses(jobs)), "they wait for the bucket only")
        assert {status.state for status in farm.statuses(jobs)} == {"running"}
        assert farm.client.ledger.cancel(jobs[0]).before == "running"

    states = {status.id: status.state for status in farm.until_over(jobs)}
    assert states == {jobs[0]: "cancelled", jobs[1]: "done", jobs[2]: "done"}
    until_idle(farm, worker)
    assert farm.statuses(jobs[:1])[0].state == "cancelled"


def test_across_a_restart_of_the_worker(farm: FaultyFarm, worker: Process) -> None:
    """One is cancelled while nobody is left who could hear of it, one while its worker sleeps."""
    [asleep, dead] = farm.submit(count=2, steps=40, **paced(0.2))
    farm.until_running([asleep, dead])
    with farm.frozen(worker):
        assert cancel(farm, asleep) == {asleep: "running"}
    until = eventually(lambda: (info := farm.info(worker)) and info.jobs == 1, "it has heard of it")
    assert until

    farm.kill(worker)
    assert cancel(farm, dead) == {dead: "running"}
    farm.start(worker)

    [later] = farm.submit()
    assert [status.state for status in farm.until_over([later])] == ["done"]
    assert {status.state for status in farm.statuses([asleep, dead])} == {"cancelled"}


def test_across_a_restart_of_redis(farm: FaultyFarm, worker: Process) -> None:
    [queued] = farm.submit(model="nobody")
    [running] = farm.submit(steps=40, **paced(0.2))
    farm.until_running([running])
    assert cancel(farm, queued, running) == {queued: "queued", running: "running"}

    with farm.without_redis():
        pass

    until_idle(farm, worker)
    assert {status.state for status in farm.statuses([queued, running])} == {"cancelled"}
