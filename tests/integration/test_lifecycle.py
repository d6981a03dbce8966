"""Jobs cancelled, retried, preferred and shared; workers that leave, and workers that are killed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from farm.client import FarmClient
from farm.errors import JobNotFound, WrongState
from farm.jobs.status import JobStatus
from farm.ledger.timing import TIMING
from tests.integration.conftest import LONG, Worker
from tests.timing import of_a_farm
from tests.waiting import eventually

REAL = of_a_farm(TIMING)

Launch = Callable[..., Worker]
Submit = Callable[..., list[str]]
Status = Callable[[str], JobStatus]
Finish = Callable[[list[str]], list[JobStatus]]


def in_the_middle(status: Status, job: str) -> None:
    """Wait until a job is being rendered; fail if it is over before that was seen."""

    def is_rendering() -> bool:
        now = status(job)
        assert not now.is_over, f"{job} is {now.state} already"
        return now.state == "running" and now.step > 0

    eventually(is_rendering, f"{job} is being rendered")


def test_a_queued_job_is_cancelled_at_once(client: FarmClient, submit: Submit, status: Status) -> None:
    [job] = submit(model="nobody")

    assert client.cancel([job]) == {job: "queued"}
    assert status(job).state == "cancelled"


@pytest.mark.usefixtures("worker")
def test_a_running_job_is_cancelled_and_its_slot_is_free(client: FarmClient, submit: Submit, status: Status) -> None:
    [job] = submit(**LONG)
    in_the_middle(status, job)

    assert client.cancel([job]) == {job: "running"}

    cancelled = status(job)
    assert (cancelled.state, cancelled.result) == ("cancelled", None)
    assert cancelled.step < LONG["steps"]
    eventually(lambda: all(worker.jobs == 0 for worker in client.workers()), "the worker has let go of it")
    assert status(job).state == "cancelled", "the worker's late end of it changes nothing"


@pytest.mark.usefixtures("worker")
def test_a_finished_job_cannot_be_cancelled(client: FarmClient, submit: Submit, finish: Finish) -> None:
    [job] = submit()
    finish([job])

    assert client.cancel([job]) == {job: "done"}
    assert client.ledger.get(job).state == "done"


@pytest.mark.usefixtures("worker")
def test_a_cancelled_job_is_rendered_when_retried(client: FarmClient, submit: Submit, finish: Finish) -> None:
    [job] = submit(**LONG)
    client.cancel([job])
    client.retry([job])

    [again] = finish([job])

    assert (again.state, again.error) == ("done", None)


@pytest.mark.usefixtures("worker")
def test_a_done_job_is_not_retried(client: FarmClient, submit: Submit, finish: Finish) -> None:
    [job] = submit()
    finish([job])

    with pytest.raises(WrongState, match="nothing to retry: done"):
        client.retry([job])


def test_unknown_jobs_are_named(client: FarmClient) -> None:
    with pytest.raises(JobNotFound, match="there is no job 0000000000000000-0000"):
        client.cancel(["0000000000000000-0000"])


def test_urgent_jobs_start_first(launch: Launch, submit: Submit, finish: Finish) -> None:
    jobs = {priority: submit(model="ranked", priority=priority)[0] for priority in (0, 5, 9, 3)}
    launch("ranked", "--slots", "1", model="ranked")

    statuses = {status.id: status for status in finish(list(jobs.values()))}

    started = {priority: statuses[job].started for priority, job in jobs.items()}
    assert sorted(started, key=lambda priority: started[priority]) == [9, 5, 3, 0]  # type: ignore[arg-type,return-value]


def test_priorities_that_were_changed_while_jobs_waited_decide_which_starts_first(
    client: FarmClient, launch: Launch, submit: Submit, finish: Finish
) -> None:
    """Their messages are still those of the order in which they were submitted."""
    jobs = submit(model="reordered", count=4)
    messages = client.queue.entries("reordered")
    client.prioritise(jobs[:1], 1)
    client.prioritise(jobs[-1:], by=2)
    assert client.queue.entries("reordered") == messages
    launch("reordered", "--slots", "1", model="reordered")

    statuses = finish(jobs)

    assert [status.attempt for status in statuses] == [1] * 4
    started = {status.id: status.started or status.submitted for status in statuses}
    assert sorted(jobs, key=lambda job: started[job]) == [jobs[3], jobs[1], jobs[2], jobs[0]]


def test_of_two_models_the_more_urgent_jobs_start_first_whose_messages_say_otherwise(
    client: FarmClient, launch: Launch, submit: Submit, finish: Finish, tiny_model: Path
) -> None:
    lowered, raised = submit(model="lowered", priority=9, count=2), submit(model="raised", priority=0, count=2)
    client.prioritise(lowered, 0)
    client.prioritise(raised, 9)
    launch("both", "--slots", "1", "--model", f"raised={tiny_model}", model="lowered")

    started = {status.id: status.started or status.submitted for status in finish([*lowered, *raised])}

    assert sorted(started, key=lambda job: started[job]) == [*raised, *lowered]


def test_two_workers_share_a_queue(launch: Launch, submit: Submit, finish: Finish) -> None:
    launch("left", "--slots", "2", model="shared-out")
    launch("right", "--slots", "2", model="shared-out")

    statuses = finish(submit(model="shared-out", count=12, steps=20))

    assert {status.state for status in statuses} == {"done"}
    assert {(status.worker or "").rpartition("-")[0] for status in statuses} == {"left", "right"}
    assert {status.attempt for status in statuses} == {1}


def test_jobs_of_a_killed_worker_are_finished_by_another(
    client: FarmClient, launch: Launch, submit: Submit, status: Status, finish: Finish
) -> None:
    victim = launch("victim", model="risky")
    jobs = submit(model="risky", count=2, **LONG)
    for job in jobs:
        in_the_middle(status, job)
    victim.kill()
    killed = max(client.ledger.get_many(jobs), key=lambda one: one.started or one.submitted)
    launch("heir", model="risky")

    statuses = finish(jobs)

    assert {one.state for one in statuses} == {"done"}
    assert {(one.worker or "").rpartition("-")[0] for one in statuses} == {"heir"}
    assert {one.attempt for one in statuses} == {2}
    assert killed.attempt == 1
    for job in jobs:
        assert client.result(job).attempt == 2
        images = [stored.key for stored in client.storage.list(f"jobs/{job}/") if stored.key.endswith("image.png")]
        assert images == [f"jobs/{job}/2/image.png"]


def test_jobs_of_a_killed_worker_are_finished_by_one_that_lives_within_half_a_minute(
    launch: Launch, submit: Submit, status: Status, finish: Finish
) -> None:
    """With the times that a farm runs with: what is promised to people."""
    two = {name: launch(name, model="prompt", **REAL) for name in ("first", "second")}
    jobs = submit(model="prompt", count=2, **LONG)
    for job in jobs:
        in_the_middle(status, job)
    victim = (status(jobs[0]).worker or "").rpartition("-")[0]
    held = [job for job in jobs if (status(job).worker or "").startswith(f"{victim}-")]

    killed_at = datetime.now(UTC)
    two[victim].kill()

    for again in finish(held):
        assert (again.state, again.attempt) == ("done", 2)
        assert again.started is not None
        assert again.started - killed_at < timedelta(seconds=30)


def test_a_worker_out_of_time_hands_its_jobs_back(
    client: FarmClient, launch: Launch, submit: Submit, status: Status, finish: Finish
) -> None:
    leaver = launch("hasty", "--grace", "0", model="handed-back")
    [job] = submit(model="handed-back", **LONG)
    in_the_middle(status, job)

    leaver.ask_to_leave()

    assert leaver.process.wait(60) == 0
    assert status(job).state == "queued"
    assert not [worker for worker in client.workers() if worker.id.startswith("hasty-")]
    launch("successor", model="handed-back")
    [done] = finish([job])
    assert (done.state, done.attempt) == ("done", 2)


def test_a_second_signal_ends_a_worker_at_once(launch: Launch, submit: Submit, status: Status) -> None:
    leaver = launch("impatient", "--grace", "600", model="twice")
    [job] = submit(model="twice", **LONG)
    in_the_middle(status, job)
    leaver.ask_to_leave()
    eventually(lambda: b"leaving:" in leaver.log.read_bytes(), "it has begun to leave")

    leaver.process.send_signal(signal.SIGINT)

    assert leaver.process.wait(30) == 128 + signal.SIGINT
    assert status(job).state == "queued"
