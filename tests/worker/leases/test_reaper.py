"""What was lost is found: lapsed leases and lost messages."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from farm.jobs.status import Waiting
from farm.ledger.ledger import MAX_DEATHS, Ledger
from farm.ledger.timing import Timing
from farm.queue import KEY_PREFIX, Queue, lists
from farm.settings import Settings
from tests.ledgers import BATCH, job
from tests.waiting import eventually
from worker.leases.reaper import Reaper
from worker.queue.messages import jobs_named

AT_ONCE = Timing(unclaimed=0.0, forgotten=0.0)
"""What was lost is found however lately that was."""
HURRIED = Timing(lease=1.5, progress=0.1, reaping=0.1)


@pytest.fixture
def queue(servers: Settings, ledger: Ledger) -> Iterator[Queue]:
    ledger.redis.flushdb()
    queue = Queue(servers)
    yield queue
    queue.close()


def claim_and_fall_silent(ledger: Ledger, name: str, worker: str) -> None:
    assert ledger.claim(name, worker, lease=0.0, alone=True) is not None


def test_a_silent_workers_job_is_queued_and_published_again(ledger: Ledger, queue: Queue) -> None:
    new = job(model="reaped")
    ledger.create(BATCH, [new])
    claim_and_fall_silent(ledger, new.id, "w1")

    Reaper(ledger, queue, "w2").reap()

    status = ledger.get(new.id)
    assert (status.state, status.attempt, status.worker) == ("queued", 1, None)
    assert queue.depth("reaped") == 1


def test_a_job_that_brings_its_workers_down_is_given_up_with_the_reason(ledger: Ledger, queue: Queue) -> None:
    new = job(model="poison")
    ledger.create(BATCH, [new])
    for death in range(MAX_DEATHS):
        claim_and_fall_silent(ledger, new.id, f"w{death}")
        Reaper(ledger, queue, "w").reap()

    status = ledger.get(new.id)
    assert (status.state, status.attempt) == ("failed", MAX_DEATHS)
    assert status.error is not None
    assert status.error.kind == "poison"
    assert f"w{MAX_DEATHS - 1} (attempt {MAX_DEATHS})" in status.error.message
    assert queue.depth("poison") == MAX_DEATHS - 1, "the last death publishes nothing"


def test_a_lease_that_holds_is_left_alone(ledger: Ledger, queue: Queue) -> None:
    ledger.create(BATCH, [job(model="held")])
    assert ledger.claim(job().id, "w1") is not None

    Reaper(ledger, queue, "w2").reap()

    assert ledger.get(job().id).state == "running"
    assert queue.depth("held") == 0


def test_a_job_whose_message_was_lost_is_published_again(ledger: Ledger, queue: Queue) -> None:
    ledger.create(BATCH, [job(model="unheard")])

    Reaper(ledger, queue, "w", timing=AT_ONCE).reconcile()

    assert queue.depth("unheard") == 1


def test_a_message_that_a_more_urgent_job_of_another_model_used_up_is_replaced_if_the_worker_dies(
    ledger: Ledger, queue: Queue
) -> None:
    """Between its claim, and publishing one like it."""
    lowered, other = job(0, model="lowered", priority=9), job(1, model="other")
    ledger.create(BATCH, [lowered, other])
    ledger.prioritise({lowered.id: 1})
    claim = ledger.claim(lowered.id, "dead", instead=["lowered", "other"])
    assert claim is not None and (claim.job, claim.owed) == (other.id, lowered.id)

    Reaper(ledger, queue, "w", timing=AT_ONCE).reconcile()

    assert jobs_named(queue.entries("lowered")) == {lowered.id}
    assert ledger.redis.llen(lists("lowered")[8]) == 1, "at its present priority"


def test_a_job_whose_message_lies_where_earlier_versions_put_it_is_published_again(
    ledger: Ledger, queue: Queue
) -> None:
    """They named the queue's lists as Celery does, without a prefix."""
    ledger.create(BATCH, [job(model="earlier")])
    queue.publish([Waiting(job().id, "earlier", 5)])
    current = lists("earlier")[4]
    ledger.redis.rename(current, current.removeprefix(KEY_PREFIX))

    Reaper(ledger, queue, "w", timing=AT_ONCE).reconcile()

    assert jobs_named(queue.entries("earlier")) == {job().id}


def test_a_job_whose_message_was_lost_from_a_queue_with_others_is_found_by_looking_through_it(
    ledger: Ledger, queue: Queue
) -> None:
    ledger.create(BATCH, [job(index, model="holey", priority=index % 10) for index in range(12)])
    lost = job(7).id
    queue.publish(Waiting(job(index).id, "holey", index % 10) for index in range(12) if index != 7)
    ledger.redis.lpush(lists("holey")[0], "no message at all")
    reaper = Reaper(ledger, queue, "w", timing=AT_ONCE)

    reaper.reconcile()
    reaper.reconcile()

    assert jobs_named(queue.entries("holey")) == {job(index).id for index in range(12)}
    assert queue.depth("holey") == 13, f"only {lost} was published again, and once"


def test_a_job_that_was_forgotten_in_a_long_queue_is_published_again(ledger: Ledger, queue: Queue) -> None:
    ledger.create(BATCH, [job(0, model="long"), job(1, model="long")])
    queue.publish([Waiting(job(1).id, "long", 5)])

    Reaper(ledger, queue, "w", timing=AT_ONCE, search_messages=0).reconcile()

    assert queue.depth("long") == 3


def test_a_fresh_job_and_a_long_queue_are_left_alone(ledger: Ledger, queue: Queue) -> None:
    ledger.create(BATCH, [job(model="fresh")])

    Reaper(ledger, queue, "w").reconcile()

    assert queue.depth("fresh") == 0


def test_a_queue_that_cannot_be_read_does_not_hide_the_others(ledger: Ledger, queue: Queue) -> None:
    ledger.create(BATCH, [job(0, model="aaa"), job(1, model="zzz")])
    ledger.redis.set(lists("aaa")[0], "not a list")

    Reaper(ledger, queue, "w", timing=AT_ONCE).reconcile()

    assert queue.depth("zzz") == 1


def test_nobody_is_declared_dead_for_an_outage_in_which_nobody_could_renew(ledger: Ledger) -> None:
    """The first to come by after a silence reaps nothing, even if its request was sent before the silence."""
    ledger.create(BATCH, [job(0), job(1)])
    claim_and_fall_silent(ledger, job(0).id, "w1")
    grace = 60.0
    watch = ledger._key("reaped")

    def let_pass(seconds: float) -> None:
        for name, moment in ledger.redis.hgetall(watch).items():
            ledger.redis.hset(watch, name, int(moment) - round(1000 * seconds))

    assert ledger.reap(window=grace) == [], "the first ever: who knows for how long there was nobody"
    let_pass(30)
    assert ledger.reap(window=grace) == [], "the healthy may still be renewing"
    let_pass(31)
    assert [reaped.job for reaped in ledger.reap(window=grace)] == [job(0).id]

    claim_and_fall_silent(ledger, job(1).id, "w1")
    let_pass(41)
    assert ledger.reap(window=grace) == [], "after an outage it is the same"
    let_pass(30)
    ledger.reap(limit=0, window=grace)  # as those do who do not hold the lock
    let_pass(41)
    assert ledger.reap(window=grace) == [], "a second outage cut the time short in which to renew"
    let_pass(30)
    ledger.reap(limit=0, window=grace)
    let_pass(31)
    assert [reaped.job for reaped in ledger.reap(window=grace)] == [job(1).id]


def test_a_lease_without_a_record_does_not_stop_the_others(ledger: Ledger, queue: Queue) -> None:
    ledger.create(BATCH, [job(model="real")])
    claim_and_fall_silent(ledger, job().id, "w1")
    ledger.redis.zadd(ledger._key("leases"), {"0000000000000000-9999": 1})

    Reaper(ledger, queue, "w2").reap()

    assert ledger.get(job().id).state == "queued"


def test_one_of_two_reapers_works(ledger: Ledger) -> None:
    assert ledger.try_lock("reaper", "first", seconds=60)
    assert not ledger.try_lock("reaper", "second", seconds=60)
    assert ledger.try_lock("reaper", "first", seconds=60), "the holder keeps it"


def test_the_lock_of_a_dead_reaper_lapses(ledger: Ledger) -> None:
    assert ledger.try_lock("reaper", "dead", seconds=0.05)

    eventually(lambda: ledger.try_lock("reaper", "heir", seconds=60), "the lock lapses")


def test_a_chore_that_hangs_holds_nothing_up(ledger: Ledger, queue: Queue) -> None:
    """Such as one that waits for a bucket which does not answer."""
    begun, answer = threading.Event(), threading.Event()

    def wait_for_the_bucket() -> None:
        begun.set()
        answer.wait()

    reaper = Reaper(ledger, queue, "w2", timing=HURRIED, also=[wait_for_the_bucket])
    reaper.start()
    try:
        assert begun.wait(60)
        ledger.create(BATCH, [job(model="behind")])
        claim_and_fall_silent(ledger, job().id, "w1")
        eventually(lambda: ledger.get(job().id).state == "queued", "it is queued again")
    finally:
        reaper.stop()
        answer.set()


def test_a_running_reaper_finds_a_silent_workers_job(ledger: Ledger, queue: Queue) -> None:
    ledger.create(BATCH, [job(model="background")])
    claim_and_fall_silent(ledger, job().id, "w1")
    reaper = Reaper(ledger, queue, "w2", timing=HURRIED)
    reaper.start()
    try:
        eventually(lambda: ledger.get(job().id).state == "queued", "it is queued again")
    finally:
        reaper.stop()
