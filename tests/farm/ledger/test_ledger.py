"""Leases, fences, the reaper and the event stream, on a real Redis and in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from farm.errors import JobNotFound
from farm.jobs.status import State
from farm.ledger.ledger import Ledger
from farm.ledger.records import Claim, Orders, Suspect
from tests.fakes.ledger import FakeLedger
from tests.ledgers import BATCH, a_worker, job
from tests.waiting import eventually

NAME = job().id
LAPSED = -1.0  # a lease that ended a second ago


@pytest.fixture(params=[pytest.param("redis", marks=pytest.mark.farm), "memory"])
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """The real one and its stand-in: what is asked of a ledger here is asked of both."""
    yield FakeLedger() if request.param == "memory" else request.getfixturevalue("ledger_on_redis")


def claimed(ledger: Ledger, worker: str, *, lease: float = 15.0, alone: bool = False) -> Claim:
    claim = ledger.claim(NAME, worker, lease=lease, alone=alone)
    assert claim is not None
    return claim


def test_of_many_who_claim_at_once_one_gets_the_job(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(index) for index in range(20)])
    start = threading.Barrier(16)

    def claim_all(worker: int) -> list[str]:
        start.wait()
        return [j.id for j in map(job, range(20)) if ledger.claim(j.id, f"w{worker}") is not None]

    with ThreadPoolExecutor(16) as pool:
        granted = [name for names in pool.map(claim_all, range(16)) for name in names]

    assert sorted(granted) == [job(index).id for index in range(20)]


def test_a_claim_carries_the_spec_and_a_new_attempt(ledger: Ledger) -> None:
    ledger.create(BATCH, [job()])

    first = claimed(ledger, "w1")
    assert 0 <= first.waited < 60, "seconds, since it was submitted"
    ledger.release(first, "w1")
    second = claimed(ledger, "w2")

    assert (first.attempt, second.attempt) == (1, 2)
    assert ledger.spec(NAME) == job().spec
    assert ledger.spec(NAME).to_json() == second.spec


def test_specs_of_many_are_those_that_are_there(ledger: Ledger) -> None:
    jobs = [job(index) for index in range(3)]
    ledger.create(BATCH, jobs[:2])

    assert ledger.specs([one.id for one in reversed(jobs)]) == {one.id: one.spec for one in jobs[:2]}


def test_a_batch_has_as_many_jobs_as_it_was_submitted_with(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(0), job(1)])
    ledger.cancel(job(0).id)
    assert ledger.sizes([BATCH, "f" * 16]) == {BATCH: 2, "f" * 16: 0}
    assert ledger.sizes([]) == {}


def test_renewing_records_the_step_and_tells_what_is_lost(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(0), job(1)])
    mine = claimed(ledger, "w1")
    theirs = ledger.claim(job(1).id, "w2")
    assert theirs is not None

    renewed = ledger.renew("w1", [(NAME, mine.attempt, 7), (theirs.job, theirs.attempt, 9)])

    assert renewed.lost == {(theirs.job, theirs.attempt)}
    assert not renewed.previewed
    assert ledger.get(NAME).step == 7
    assert ledger.get(theirs.job).step == 0


def test_a_renewed_lease_is_not_reaped(ledger: Ledger) -> None:
    ledger.create(BATCH, [job()])
    claim = claimed(ledger, "w1", lease=LAPSED)
    assert not ledger.renew("w1", [(NAME, claim.attempt, 1)]).lost
    assert ledger.reap() == []


def test_a_worker_hears_of_looks_at_what_it_holds_as_it_renews(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(0), job(1), job(2)])
    previewed, other = claimed(ledger, "w1"), ledger.claim(job(1).id, "w1")
    theirs = ledger.claim(job(2).id, "w2")
    assert other is not None and theirs is not None

    assert ledger.subscribe_previews([NAME, job(2).id], seconds=60) == [NAME, job(2).id]

    held = [(claim.job, claim.attempt, 1) for claim in (previewed, other, theirs)]
    renewed = ledger.renew("w1", held)
    assert renewed.previewed == {(NAME, previewed.attempt)}
    assert renewed.lost == {(theirs.job, theirs.attempt)}
    assert ledger.renew("w1", held).previewed == {(NAME, previewed.attempt)}, "as often as it renews"


def test_a_look_lapses(ledger: Ledger) -> None:
    ledger.create(BATCH, [job()])
    claim = claimed(ledger, "w1")
    ledger.subscribe_previews([NAME], seconds=0)

    assert not ledger.renew("w1", [(NAME, claim.attempt, 1)]).previewed


def test_who_looks_at_a_queued_job_looks_at_it_once_it_runs(ledger: Ledger) -> None:
    ledger.create(BATCH, [job()])

    assert ledger.subscribe_previews([NAME], seconds=60) == []

    claim = claimed(ledger, "w1")
    assert ledger.renew("w1", [(NAME, claim.attempt, 1)]).previewed == {(NAME, claim.attempt)}


def test_cancelling_says_whether_there_may_be_a_preview(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(0), job(1)])
    ledger.subscribe_previews([NAME], seconds=60)

    assert ledger.cancel(NAME).had_preview
    assert not ledger.cancel(job(1).id).had_preview


def test_a_zombie_cannot_finish_what_another_holds(ledger: Ledger) -> None:
    ledger.create(BATCH, [job()])
    zombie = claimed(ledger, "w1", lease=LAPSED)
    assert [reaped.state for reaped in ledger.reap()] == ["queued"]
    heir = claimed(ledger, "w2")

    assert not ledger.finish(zombie, "w1", "done", {"result": "zombie"})
    assert ledger.finish(heir, "w2", "done", {"result": "heir"})
    assert not ledger.finish(zombie, "w1", "done", {"result": "zombie"})
    assert ledger.get(NAME).result == "heir"


def test_the_same_worker_is_fenced_by_the_attempt(ledger: Ledger) -> None:
    ledger.create(BATCH, [job()])
    first = claimed(ledger, "w1", lease=LAPSED)
    ledger.reap()
    claimed(ledger, "w1")

    assert not ledger.finish(first, "w1", "done", {})
    assert ledger.get(NAME).state == "running"


def outlive_three_workers(ledger: Ledger) -> list[str]:
    """The states that a job has after each of three workers fell silent with it."""
    states: list[str] = []
    for death in range(3):
        claimed(ledger, f"w{death}", lease=LAPSED, alone=death == 2)
        states += [reaped.state for reaped in ledger.reap()]
    return states


def test_a_job_that_outlives_three_workers_is_poison(ledger: Ledger) -> None:
    ledger.create(BATCH, [job()])

    assert outlive_three_workers(ledger) == ["queued", "queued", "failed"]

    error = ledger.get(NAME).error
    assert error is not None and error.kind == "poison"
    assert "lapsed 3 times, on w0 (attempt 1), w1 (attempt 2), w2 (attempt 3)" in error.message


def test_how_the_last_worker_of_a_poison_job_ended_is_told_even_when_it_is_known_only_later(ledger: Ledger) -> None:
    ledger.create(BATCH, [job()])
    outlive_three_workers(ledger)

    ledger.note_death("w1", "ended otherwise")
    ledger.note_death("w2", "ended with: Segmentation fault")

    error = ledger.get(NAME).error
    assert error is not None
    assert error.message.endswith("; w2 ended with: Segmentation fault")


def test_a_job_that_outlived_two_workers_is_given_only_to_one_that_does_nothing_else(ledger: Ledger) -> None:
    ledger.create(BATCH, [job()])
    for death in range(2):
        claimed(ledger, f"w{death}", lease=LAPSED)
        ledger.reap()

    with pytest.raises(Suspect):
        ledger.claim(NAME, "w2")
    assert ledger.get(NAME).state == "queued"
    assert ledger.claim(NAME, "w2", alone=True) is not None


def test_the_next_attempt_is_told_of_the_checkpoint_and_starts_at_its_step(ledger: Ledger) -> None:
    ledger.create(BATCH, [job()])
    first = claimed(ledger, "w1")
    assert first.checkpoint is None
    assert ledger.checkpoint(first, "w1", 12)
    ledger.release(first, "w1")

    assert ledger.get(NAME).step == 12
    assert claimed(ledger, "w2").checkpoint == 1


def test_a_zombie_cannot_name_its_checkpoint(ledger: Ledger) -> None:
    ledger.create(BATCH, [job()])
    zombie = claimed(ledger, "w1", lease=LAPSED)
    ledger.reap()
    heir = claimed(ledger, "w2")
    assert ledger.checkpoint(heir, "w2", 5)

    assert not ledger.checkpoint(zombie, "w1", 20)

    ledger.release(heir, "w2")
    assert claimed(ledger, "w3").checkpoint == heir.attempt


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_that_is_retried_starts_over(ledger: Ledger, state: State) -> None:
    ledger.create(BATCH, [job()])
    claim = claimed(ledger, "w1")
    ledger.checkpoint(claim, "w1", 12)
    if state == "failed":
        ledger.finish(claim, "w1", "failed", {})
    else:
        assert ledger.cancel(NAME).checkpoint == claim.attempt

    ledger.retry(NAME)

    assert ledger.get(NAME).step == 0
    assert claimed(ledger, "w1").checkpoint is None


def test_a_retry_clears_deaths_and_the_error(ledger: Ledger) -> None:
    ledger.create(BATCH, [job()])
    outlive_three_workers(ledger)

    assert ledger.retry(NAME) == "failed"

    status = ledger.get(NAME)
    assert (status.state, status.error, status.finished, status.step) == ("queued", None, None, 0)
    claimed(ledger, "w4", lease=LAPSED)
    assert [reaped.state for reaped in ledger.reap()] == ["queued"]


def test_a_release_is_nobodys_fault(ledger: Ledger) -> None:
    ledger.create(BATCH, [job()])
    for _ in range(5):
        assert ledger.release(claimed(ledger, "w1"), "w1")
    assert ledger.get(NAME).state == "queued"


def test_reaping_is_bounded(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(index) for index in range(5)])
    for index in range(5):
        ledger.claim(job(index).id, "w1", lease=LAPSED)
    assert [len(ledger.reap(limit=3)) for _ in range(3)] == [3, 2, 0]


def test_republishing_takes_only_what_waited_long_enough(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(0, priority=9), job(1, model="other")])

    assert ledger.republish("emoji", older_than=60) == []
    stale = ledger.republish("emoji", older_than=-1)

    assert [(waiting.job, waiting.model, waiting.priority) for waiting in stale] == [(NAME, "emoji", 9)]
    assert ledger.republish("emoji", older_than=60) == []


def test_what_waits_is_counted_from_the_first_that_was_submitted_whatever_its_priority(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(0, model="mine", priority=0), job(1, model="busy")])
    eventually(lambda: ledger.demand(["mine"])["mine"].oldest >= 0.05, "it has waited a little")
    ledger.create(BATCH, [job(2, model="mine", priority=9), job(3, model="other")])
    assert ledger.claim(job(1).id, "w1")

    demand = ledger.demand(["mine", "busy", "nobody's"])

    assert demand.keys() == {"mine"}
    assert demand["mine"].waiting == 2
    assert 0.05 <= demand["mine"].oldest < 60
    assert ledger.demand([]) == {}


def test_events_tell_states_and_steps_in_order(ledger: Ledger) -> None:
    before = ledger.now()
    ledger.create(BATCH, [job()])
    claim = claimed(ledger, "w1")
    ledger.renew("w1", [(NAME, claim.attempt, 5)])
    ledger.finish(claim, "w1", "done", {})

    events = ledger.events(before, wait=0.01)

    assert [(event.state, event.step) for event in events] == [
        ("queued", None),
        ("running", None),
        ("running", 5),
        ("done", None),
    ]
    assert ledger.events(events[-1].cursor, wait=0.01) == []


def test_only_running_jobs_are_told_to_workers_when_cancelled(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(0), job(1)])
    cursor = ledger.control_cursor()
    claimed(ledger, "w1")
    ledger.cancel(job(1).id)
    ledger.cancel(NAME)

    told = ledger.orders(cursor, wait=0.01)

    assert told.cancelled == {(NAME, 1)}
    assert ledger.orders(told.cursor, wait=0.01) == Orders(told.cursor)


def test_who_is_drained_hears_of_it_by_name_until_it_is_resumed(ledger: Ledger) -> None:
    cursor = ledger.control_cursor()
    assert ledger.announce(a_worker("gpu-0-0a1b")) is None

    ledger.drain(["gpu-0"], "finish")
    assert ledger.announce(a_worker("gpu-0-0a1b")) == "finish"
    assert ledger.announce(a_worker("gpu-0-ffff")) == "finish", "a process that was started in its place"
    assert ledger.announce(a_worker("gpu-1-0a1b")) is None
    ledger.drain(["gpu-0", "gone"], "hand-back")
    assert ledger.announce(a_worker("gpu-0-ffff")) == "hand-back"
    gone, first = ledger.drained()
    assert (gone.name, first.name, first.wish) == ("gone", "gpu-0", "hand-back")
    assert first.since <= gone.since, "it has been drained since it was told so first"

    assert ledger.resume(["gpu-0", "gpu-1"]) == ["gpu-0"]
    assert ledger.resume(["gpu-0"]) == []
    assert ledger.announce(a_worker("gpu-0-ffff")) is None
    told = ledger.orders(cursor, wait=0.01)
    assert told.told == {"gpu-0", "gpu-1", "gone"} and not told.cancelled


def test_pages_show_the_newest_first(ledger: Ledger) -> None:
    for index in range(5):
        ledger.create(BATCH, [job(index)])
    names = [status.id for status in ledger.page(limit=10)]
    assert sorted(names) == [job(index).id for index in range(5)]
    assert [status.id for status in ledger.page(limit=2, offset=2)] == names[2:4]


def test_a_batch_is_found_by_its_beginning(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(0), job(1)])
    assert ledger.resolve("0000") == [job(0).id, job(1).id]
    assert ledger.resolve(job(1).id) == [job(1).id]
    for unknown in ("zzzz", "000", "", "*", "1" * 16):
        with pytest.raises(JobNotFound):
            ledger.resolve(unknown)


def test_a_beginning_of_two_batches_is_refused(ledger: Ledger) -> None:
    other = "0000" + "1" * 12
    ledger.create(BATCH, [job()])
    ledger.create(other, [type(job())(f"{other}-0000", job().spec, 5, {})])
    with pytest.raises(JobNotFound, match="could be 2 batches"):
        ledger.resolve("0000")


def test_the_most_urgent_are_named_in_the_order_of_their_turns(ledger: Ledger) -> None:
    made = [replace(job(number), priority=priority) for number, priority in enumerate((9, 8, 9, 5, 9))]
    ledger.create(BATCH, made)
    model = made[0].spec.model
    assert ledger.urgent([model, "other"]) == [made[0].id, made[2].id, made[4].id]
    assert ledger.urgent([model], limit=1) == [made[0].id]
    ledger.cancel(made[0].id)
    assert ledger.urgent([model]) == [made[2].id, made[4].id]
    assert ledger.urgent([]) == []


def test_workers_come_and_go(ledger: Ledger) -> None:
    worker = a_worker()
    ledger.announce(worker)
    assert ledger.workers() == [worker]
    ledger.depart("w1")
    assert ledger.workers() == []


def test_a_lock_is_held_by_one(ledger: Ledger) -> None:
    assert ledger.try_lock("reaper", "w1", seconds=60)
    assert not ledger.try_lock("reaper", "w2", seconds=60)
    assert ledger.try_lock("reaper", "w1", seconds=60)
