"""Leases are kept while the engine gets on, and losses are heard of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from farm.ledger.ledger import Ledger
from farm.ledger.records import Claim, Wish
from farm.ledger.timing import Timing
from tests.ledgers import a_worker, job
from tests.waiting import eventually
from worker.leases.keeper import LeaseKeeper

WORKER = "w"


class Hearing:
    """Notes what a keeper says, and decides whether the engine hangs."""

    def __init__(self) -> None:
        self.lost: list[str] = []
        self.previewed: list[str] = []
        self.wishes: list[Wish | None] = []
        self.hangs = threading.Event()
        self.told_of_hang = threading.Event()


@pytest.fixture
def hearing() -> Hearing:
    return Hearing()


@pytest.fixture
def timing() -> Timing:
    return Timing(lease=3.0, progress=0.1, announcement=1.0, reaping=0.3)


@pytest.fixture
def keeper(ledger: Ledger, timing: Timing, hearing: Hearing) -> Iterator[LeaseKeeper]:
    keeper = LeaseKeeper(
        ledger,
        WORKER,
        announce=lambda: hearing.wishes.append(ledger.announce(a_worker(WORKER))),
        on_lost=lambda claim: hearing.lost.append(claim.job),
        on_preview_wanted=lambda claim: hearing.previewed.append(claim.job),
        is_hung=hearing.hangs.is_set,
        on_hang=hearing.told_of_hang.set,
        timing=timing,
    )
    keeper.start()
    yield keeper
    keeper.stop()


@pytest.fixture
def claim_one(ledger: Ledger) -> Callable[..., Claim]:
    def claim(index: int = 0, *, lease: float = 15.0) -> Claim:
        new = job(index)
        ledger.create(new.id.partition("-")[0], [new])
        claim = ledger.claim(new.id, WORKER, lease=lease)
        assert claim is not None
        return claim

    return claim


def test_steps_reach_the_ledger(keeper: LeaseKeeper, ledger: Ledger, claim_one: Callable[..., Claim]) -> None:
    claim = claim_one()
    with keeper.holding(claim) as holding:
        holding.step = 7

        eventually(lambda: ledger.get(claim.job).step == 7, "the step is recorded")


def test_a_lease_that_is_held_does_not_lapse(
    keeper: LeaseKeeper, ledger: Ledger, claim_one: Callable[..., Claim]
) -> None:
    claim = claim_one(lease=1.0)
    with keeper.holding(claim) as holding:
        holding.step = 1
        eventually(lambda: ledger.get(claim.job).step == 1, "the lease is renewed")
        until = ledger.redis.zscore(ledger._key("leases"), claim.job)
        assert until / 1000 > datetime.now(UTC).timestamp() + 1.5, "renewed for a whole lease"
        assert ledger.reap() == []


def test_a_cancelled_job_is_lost_at_once(
    keeper: LeaseKeeper, ledger: Ledger, hearing: Hearing, claim_one: Callable[..., Claim]
) -> None:
    claim = claim_one()
    other = claim_one(1)
    with keeper.holding(claim) as holding, keeper.holding(other) as kept:
        ledger.cancel(claim.job)

        assert holding.lost.wait(30)
        assert hearing.lost == [claim.job]
        assert not kept.lost.is_set()


def test_a_job_that_another_took_is_lost(
    keeper: LeaseKeeper, ledger: Ledger, hearing: Hearing, claim_one: Callable[..., Claim]
) -> None:
    claim = claim_one(lease=0.0)
    eventually(ledger.reap, "the lease lapses")
    assert ledger.claim(claim.job, "another") is not None
    with keeper.holding(claim) as holding:
        holding.step = 3

        assert holding.lost.wait(30)
    assert hearing.lost == [claim.job]


def test_a_job_taken_up_again_by_the_same_worker_is_kept_and_the_old_attempt_lost(
    keeper: LeaseKeeper, ledger: Ledger, hearing: Hearing, claim_one: Callable[..., Claim]
) -> None:
    first = claim_one()
    with keeper.holding(first) as old:
        ledger.cancel(first.job)
        ledger.retry(first.job)
        again = ledger.claim(first.job, WORKER)
        assert again is not None
        with keeper.holding(again) as new:
            assert old.lost.wait(30)
            new.step = 5
            eventually(lambda: ledger.get(first.job).step == 5, "the new attempt is renewed")
            assert not new.lost.is_set()
    assert hearing.lost == [first.job]


def test_a_hung_engine_is_told_and_its_leases_are_let_go(
    keeper: LeaseKeeper, ledger: Ledger, hearing: Hearing, claim_one: Callable[..., Claim]
) -> None:
    claim = claim_one(lease=0.2)
    with keeper.holding(claim):
        hearing.hangs.set()
        assert hearing.told_of_hang.wait(30)

        [reaped] = eventually(ledger.reap, "the lease lapses")
    assert (reaped.job, reaped.state) == (claim.job, "queued")


def test_a_worker_is_announced_and_says_goodbye(ledger: Ledger, keeper: LeaseKeeper) -> None:
    eventually(lambda: [worker.id for worker in ledger.workers()] == [WORKER], "it is announced")

    keeper.stop()

    assert ledger.workers() == []


def test_of_a_job_that_somebody_looks_at_it_is_heard_with_each_report(
    keeper: LeaseKeeper, ledger: Ledger, hearing: Hearing, claim_one: Callable[..., Claim]
) -> None:
    seen, unseen = claim_one(), claim_one(1)
    ledger.subscribe_previews([seen.job], seconds=600)
    with keeper.holding(seen) as holding, keeper.holding(unseen) as other:
        holding.step = other.step = 1
        eventually(lambda: len(hearing.previewed) >= 1, "it is heard of")
        holding.step = other.step = 2
        eventually(lambda: len(hearing.previewed) >= 2, "it is heard of again")

    assert set(hearing.previewed) == {seen.job}


def test_of_what_operators_wish_it_is_heard_at_once(ledger: Ledger, hearing: Hearing, timing: Timing) -> None:
    seldom = timing.model_copy(update={"announcement": 3_600.0})
    keeper = LeaseKeeper(
        ledger,
        "w-0a1b",
        announce=lambda: hearing.wishes.append(ledger.announce(a_worker("w-0a1b"))),
        on_lost=lambda _: None,
        on_preview_wanted=lambda _: None,
        is_hung=lambda: False,
        on_hang=lambda: None,
        timing=seldom,
    )
    keeper.start()
    try:
        eventually(lambda: hearing.wishes == [None], "it is announced")
        ledger.drain(["another"], "finish")
        ledger.drain(["w"], "hand-back")
        eventually(lambda: hearing.wishes == [None, "hand-back"], "the wish for its name is heard")
        ledger.resume(["w"])
        eventually(lambda: hearing.wishes == [None, "hand-back", None], "it is heard that it may go on")
    finally:
        keeper.stop()
