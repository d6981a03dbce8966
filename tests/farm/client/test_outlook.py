"""About when jobs will be done: by what workers made in the last minute, or by the steps of what runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from farm.client.outlook import left_seconds, lines, wait_seconds
from farm.jobs.status import JobStatus
from farm.ledger.ledger import Ledger
from tests.ledgers import a_worker, job

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def running(model: str = "emoji", *, step: int, seconds: float) -> JobStatus:
    """A job that has had so many of 30 steps in so many seconds."""
    fields = {"state": "running", "step": step, "steps": 30, "attempt": 1, "model": model, "priority": 5}
    nothing = dict.fromkeys(("finished", "error", "result"))
    told = {"batch": "0" * 16, "worker": "w1", "prompt": "", "labels": {}, "warnings": (), "submitted": NOW}
    started = NOW - timedelta(seconds=seconds)
    return JobStatus.model_validate({"id": f"{'0' * 16}-0000", **fields, **nothing, **told, "started": started})


def test_what_workers_made_in_the_last_minute_is_divided_among_what_they_have_work_for() -> None:
    workers = [
        a_worker("w1", models=("a", "b", "idle"), images_per_minute=12.0, warm=("a",)),
        a_worker("w2", models=("a",), images_per_minute=6.0),
    ]
    found = lines({"a": 10, "b": 2, "idle": 0, "nobodys": 3, "over": 0}, workers, [], NOW)

    assert found.keys() == {"a", "b", "idle", "nobodys"}
    assert (found["a"].rate, found["b"].rate) == (pytest.approx(0.2), pytest.approx(0.1))
    assert (found["a"].workers, found["a"].warm) == (("w1", "w2"), ("w1",))
    assert wait_seconds(found["a"], 9) == found["a"].seconds == pytest.approx(50)
    assert found["nobodys"].rate is None and wait_seconds(found["nobodys"], 0) is None


def test_where_no_picture_is_done_yet_the_steps_of_what_runs_tell() -> None:
    jobs = [running(step=10, seconds=100), running(step=20, seconds=200)]  # each takes 300 s
    found = lines({"emoji": 4}, [a_worker(images_per_minute=0.0)], jobs, NOW)["emoji"]

    assert found.rate == pytest.approx(2 / 300)
    assert found.running == 2 and wait_seconds(found, 0) == pytest.approx(300)
    assert [left_seconds(one, NOW) for one in jobs] == [pytest.approx(200), pytest.approx(100)]
    assert left_seconds(running(step=0, seconds=9), NOW) is None


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"drained": True, "paused": "drained by an operator"}, "drained by an operator"),
        ({"drained": True}, "drained by an operator"),
        ({"paused": "the bucket cannot be used"}, "the bucket cannot be used"),
        ({"state": "draining"}, "stopping"),
    ],
)
def test_a_worker_that_takes_no_jobs_promises_nothing(fields: dict[str, object], why: str) -> None:
    idle = a_worker("w1", images_per_minute=60.0, **fields)
    found = lines({"emoji": 4}, [idle], [running(step=10, seconds=100)], NOW)["emoji"]
    assert (found.workers, found.takers, found.why) == (("w1",), (), why)
    assert found.rate is found.seconds is wait_seconds(found, 0) is None

    found = lines({"emoji": 4}, [idle, a_worker("w2", images_per_minute=6.0)], [], NOW)["emoji"]
    assert (found.workers, found.takers, found.why) == (("w1", "w2"), ("w2",), None)
    assert found.rate == pytest.approx(0.1)


def test_why_no_worker_takes_jobs_is_told_where_all_of_them_agree() -> None:
    workers = [a_worker("w1", drained=True), a_worker("w2", state="draining")]
    found = lines({"emoji": 1}, workers, [], NOW)["emoji"]
    assert (found.takers, found.why) == ((), None)
    assert lines({"emoji": 1}, [a_worker(state="starting")], [], NOW)["emoji"].takers == ("w1",)


def test_places_in_line_are_by_priority_then_by_submission_and_then_by_id(ledger: Ledger) -> None:
    jobs = [job(index) for index in range(5)]
    ledger.create("0" * 16, jobs)  # of one moment
    ledger.create("0" * 16, [job(5, priority=8), job(6, model="other"), job(7, priority=0)])
    ledger.cancel(jobs[1].id)
    queued = ledger.page(state="queued")

    assert ledger.places(queued) == {
        **{job(5).id: 0, jobs[0].id: 1, jobs[2].id: 2, jobs[3].id: 3, jobs[4].id: 4, job(7).id: 5},
        job(6).id: 0,
    }
    assert ledger.places([]) == {}
    assert ledger.waiting_for(["emoji", "other", "none"]) == {"emoji": 6, "other": 1, "none": 0}


def test_a_checkpoint_is_told_with_its_attempt(ledger: Ledger) -> None:
    ledger.create("0" * 16, [job()])
    assert ledger.checkpoint_of(job().id) is None
    claim = ledger.claim(job().id, "w1")
    assert claim and ledger.checkpoint(claim, "w1", 12)
    assert ledger.checkpoint_of(job().id) == (1, 12)
