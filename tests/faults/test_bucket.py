"""A bucket that is away, busy, forgetful, full or closed: finished pictures wait, and no new jobs are taken."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import pytest

from tests.faults.farm import FaultyFarm
from tests.faults.gate import Gate, Mood
from tests.faults.plugin import paced
from tests.faults.processes import Process
from tests.waiting import eventually

OUTAGE_SECONDS = float(os.environ.get("FAULT_S3_SECONDS", "6"))


@pytest.fixture
def gate(farm: FaultyFarm) -> Iterator[Gate]:
    assert farm.where.s3_endpoint
    gate = Gate(farm.where.s3_endpoint)
    yield gate
    gate.close()


def spooled(farm: FaultyFarm) -> list[str]:
    """The jobs whose pictures wait on disk."""
    folder = farm.home / "spool"
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []


def behind(farm: FaultyFarm, gate: Gate, name: str) -> Process:
    """A worker that reaches the bucket only through the gate, with two slots."""
    worker = farm.worker(name, "--slots", "2", model=name, environment={"FARM_S3_ENDPOINT": gate.endpoint})
    farm.start(worker)
    return worker


@pytest.mark.parametrize("mood", ["unavailable", "full", "forbidden"])
def test_finished_pictures_wait_on_disk_and_the_worker_says_why_it_takes_no_jobs(
    farm: FaultyFarm, gate: Gate, mood: Mood
) -> None:
    worker = behind(farm, gate, mood)
    with farm.fault(f"s3 {mood}"):
        gate.mood = mood
        jobs = farm.submit(model=mood, count=6)
        eventually(lambda: len(spooled(farm)) == 2, "two pictures wait on disk", within=120)
        info = eventually(lambda: (i := farm.info(worker)) and i.paused and i, "it says why")
        assert info.paused.startswith("the bucket cannot be used: could not put s3://farm/jobs/")
        assert "paused" in farm.shell("workers")
        assert sum(status.state == "queued" for status in farm.statuses(jobs)) == 4, "it takes no more"
        gate.mood = "well"

    over = farm.until_over(jobs)

    assert {(status.state, status.attempt) for status in over} == {("done", 1)}
    eventually(lambda: not spooled(farm), "nothing waits on disk any more")
    eventually(lambda: (i := farm.info(worker)) and i.paused is None, "it takes jobs again")
    farm.retire(worker)


def test_a_connection_that_ends_after_every_write_costs_nothing(farm: FaultyFarm, gate: Gate) -> None:
    worker = behind(farm, gate, "forgetful")
    with farm.fault("s3 forgetful"):
        gate.mood = "forgetful"
        jobs = farm.submit(model="forgetful", count=5, trace="frames")
        over = farm.until_over(jobs)
        gate.mood = "well"

    assert len(gate.dropped) > 5
    assert {(status.state, status.attempt) for status in over} == {("done", 1)}
    farm.retire(worker)


def test_an_outage_of_the_bucket_costs_nothing(
    farm: FaultyFarm, pair: tuple[Process, Process], chance: random.Random
) -> None:
    """`FAULT_S3_SECONDS=120` makes it two minutes."""
    jobs = farm.submit(count=40, steps=30, trace="numbers", **paced(0.05, every=3))
    eventually(lambda: sum(s.state == "done" for s in farm.statuses(jobs)) > chance.randrange(5), "some are done")

    with farm.without_s3():
        eventually(lambda: spooled(farm), "pictures wait on disk", within=120)
        time.sleep(OUTAGE_SECONDS)
        waiting = [status for status in farm.statuses(jobs) if not status.is_over]
        assert waiting, "nobody pretends to be done"

    over = farm.until_over(jobs)
    assert {(status.state, status.attempt) for status in over} == {("done", 1)}
    eventually(lambda: not spooled(farm), "nothing waits on disk any more")


def test_a_picture_that_waits_outlives_its_worker_and_is_not_rendered_again(farm: FaultyFarm, gate: Gate) -> None:
    worker = behind(farm, gate, "survivor")
    with farm.fault("s3 unavailable"):
        gate.mood = "unavailable"
        [job] = farm.submit(model="survivor", trace="frames", **paced(0.1))
        eventually(lambda: spooled(farm) == [job], "the picture waits on disk", within=120)
        farm.kill(worker)
        rendered = (farm.flags / "paces").read_text(encoding="utf-8").count("\n")
        gate.mood = "well"
    farm.start(worker)

    [done] = farm.until_over([job])

    assert (done.state, done.attempt) == ("done", 2)
    assert (farm.flags / "paces").read_text(encoding="utf-8").count("\n") == rendered, "not a step of it was done again"
    assert len(farm.client.result(job).objects) > 5, "its trace has come too"
    eventually(lambda: not spooled(farm), "nothing waits on disk any more")
    farm.retire(worker)


def test_a_job_whose_picture_waits_can_be_cancelled(farm: FaultyFarm, gate: Gate) -> None:
    worker = behind(farm, gate, "cancelled")
    with farm.fault("s3 unavailable"):
        gate.mood = "unavailable"
        [job] = farm.submit(model="cancelled")
        eventually(lambda: spooled(farm) == [job], "the picture waits on disk", within=120)
        farm.client.cancel([job])
        eventually(lambda: spooled(farm) == [], "it is forgotten", within=120)
        eventually(lambda: (i := farm.info(worker)) and i.paused is None, "it takes jobs again")
        gate.mood = "well"

    assert [status.state for status in farm.statuses([job])] == ["cancelled"]
    farm.retire(worker)
