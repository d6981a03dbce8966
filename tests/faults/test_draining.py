"""Workers that an operator drains: in the middle of jobs, killed while they are drained, and let go on."""

from __future__ import annotations

from farm.ledger.records import Drained
from tests.faults.farm import FaultyFarm
from tests.faults.plugin import paced
from tests.faults.processes import Process
from tests.waiting import eventually

STEPS = 30


def drained(farm: FaultyFarm, worker: Process) -> None:
    """Wait until the worker's running process says that it is drained."""
    eventually(lambda: (i := farm.info(worker)) and i.condition == "drained", f"{worker.name} is drained", within=120)


def test_a_drained_worker_finishes_its_job_and_a_killed_one_stays_drained_until_it_is_resumed(farm: FaultyFarm) -> None:
    worker = farm.worker("one", model="alone")
    farm.start(worker)
    [first] = farm.submit(model="alone", steps=STEPS, **paced(0.1))
    farm.until_running([first])

    assert farm.shell("workers", "drain", "one").endswith(" takes no more jobs, and finishes 1 job\n")
    drained(farm, worker)
    [second] = farm.submit(model="alone")
    [done] = farm.until_over([first])
    assert (done.state, done.attempt) == ("done", 1)
    info = farm.info(worker)
    assert info is not None and info.paused == "drained by an operator"
    with farm.without_redis():
        pass
    drained(farm, worker)
    assert farm.statuses([second])[0].state == "queued"

    farm.kill(worker)
    assert [one.name for one in farm.client.ledger.drained()] == ["one"]
    worker.start()
    drained(farm, worker)
    assert farm.statuses([second])[0].state == "queued", "what takes its place takes no jobs either"

    assert "takes jobs" in farm.shell("workers", "resume", "one")
    [done] = farm.until_over([second])
    assert (done.state, done.attempt) == ("done", 1)
    farm.retire(worker)


def test_what_a_drained_worker_hands_back_goes_on_elsewhere_from_its_step(farm: FaultyFarm) -> None:
    drainer, heir = farm.worker("drainer", model="moved"), farm.worker("heir", model="moved")
    farm.start(drainer)
    jobs = farm.submit(model="moved", count=3, steps=STEPS, **paced(0.2))
    farm.until_running(jobs, step=3)

    with farm.fault("drained", drainer, may_cost=True):
        farm.client.drain(["drainer"], hand_back=True)
        eventually(lambda: not farm.held_by(drainer, jobs), "it has handed back what it had")
    assert all(status.state == "queued" and status.step >= 3 for status in farm.statuses(jobs))
    farm.start(heir)
    over = farm.until_over(jobs)
    assert {(status.state, status.attempt) for status in over} == {("done", 2)}
    given_back, went_on = eventually(
        lambda: (logs := farm.client.logs(jobs[0])) and len(logs) == 2 and logs, "its logs"
    )
    assert given_back.worker.startswith("drainer-") and went_on.worker.startswith("heir-")
    assert given_back.lines[-1].text == f"job {jobs[0]} handed back"
    assert any("goes on from step" in line.text for line in went_on.lines)
    assert drainer.is_running
    assert farm.client.resume(["drainer"]).names == ("drainer",)
    eventually(lambda: (i := farm.info(drainer)) and i.condition == "ready", "it takes jobs again")
    farm.retire(drainer, heir)


def test_a_name_that_nobody_has_any_more_is_told_and_resumed(farm: FaultyFarm) -> None:
    worker = farm.worker("brief", model="brief")
    farm.start(worker)
    farm.client.drain(["brief"])
    drained(farm, worker)
    farm.retire(worker)

    [left] = farm.client.ledger.drained()
    assert isinstance(left, Drained) and left.name == "brief"
    farm.shell("workers", "resume", "brief")
    assert farm.client.ledger.drained() == []
