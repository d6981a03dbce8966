"""Taking jobs and giving them back, with a ledger that does not always answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from farm.errors import LedgerRefused, LedgerUnavailable
from farm.jobs.status import Waiting
from farm.ledger.records import Suspect
from tests.fakes.worker import FakeFarm, FakeWorker


def test_a_claim_that_was_granted_and_never_heard_of_is_taken_up(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit()
    farm.ledger.outage.lose_answer_to("claim")

    claim = worker.claims.claim(job)

    assert claim is not None
    assert (claim.job, claim.attempt) == (job, 1), "and not a second attempt"


def test_so_is_one_of_another_job_than_the_message_named(farm: FakeFarm, worker: FakeWorker) -> None:
    over, first, second = farm.submit(count=3)
    farm.ledger.cancel(over)
    farm.ledger.outage.lose_answer_to("claim")

    claim = worker.claims.claim(over)

    assert claim is not None and claim.job == first
    assert farm.status(second).state == "queued"


def test_a_more_urgent_job_of_another_model_is_taken_and_the_message_it_used_up_is_replaced(
    farm: FakeFarm, tmp_path: Path
) -> None:
    worker = FakeWorker(farm, tmp_path, models=("tiny", "other"))
    [lowered], [other] = farm.submit(), farm.submit(batch="1" * 16, model="other")
    farm.ledger.prioritise({lowered: 1})

    claim = worker.claims.claim(lowered)

    assert claim is not None and claim.job == other
    assert farm.queue.published == [Waiting(lowered, "tiny", 1)]


def test_a_worker_that_cannot_replace_it_keeps_what_it_has_claimed(farm: FakeFarm, tmp_path: Path) -> None:
    worker = FakeWorker(farm, tmp_path, models=("tiny", "other"))
    [lowered], [other] = farm.submit(), farm.submit(batch="1" * 16, model="other")
    farm.ledger.prioritise({lowered: 1})
    farm.ledger.outage.lose_answer_to("get")

    claim = worker.claims.claim(lowered)

    assert claim is not None and claim.job == other
    assert [waiting.job for waiting in farm.ledger.republish("tiny", older_than=-1)] == [lowered], "for others to find"


def test_a_ledger_that_is_away_is_asked_again(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit()
    farm.ledger.outage.begin(calls=3)

    assert worker.claims.claim(job) is not None
    assert farm.ledger.outage.refused == 3


def test_not_for_ever(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit()
    farm.ledger.outage.begin()

    with pytest.raises(LedgerUnavailable):
        worker.claims.claim(job)
    worker.runner.run(job)  # which only says so

    farm.ledger.outage.end()
    assert farm.status(job).attempt == 0


def test_a_worker_that_leaves_does_not_wait(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit()
    farm.ledger.outage.begin()
    worker.leaving.set()

    with pytest.raises(LedgerUnavailable):
        worker.claims.claim(job)
    assert farm.ledger.outage.refused == 1


def test_a_refusal_is_an_answer(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit()
    farm.ledger.outage._error = LedgerRefused
    farm.ledger.outage.begin()

    with pytest.raises(LedgerRefused):
        worker.claims.claim(job)
    assert farm.ledger.outage.refused == 1


def test_only_who_is_alone_gets_a_suspect_and_then_no_other(farm: FakeFarm, worker: FakeWorker) -> None:
    suspect, other = farm.submit(count=2)
    for name in ("w8", "w9"):
        FakeWorker(farm, Path(), name).crash_with(suspect)

    with pytest.raises(Suspect):
        worker.claims.claim(suspect)
    claim = worker.claims.claim(suspect, alone=True)

    assert claim is not None and claim.attempt == 3
    assert worker.claims.claim(suspect, alone=True) is None
    assert farm.status(other).state == "queued"


def test_what_is_given_back_is_queued_without_blame_and_published(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit()
    for _ in range(4):
        claim = worker.claims.claim(job)
        assert claim is not None
        worker.claims.give_back(claim)

    assert [waiting.job for waiting in farm.queue.published] == [job] * 4
    assert worker.work(job).state == "done", "nobody suspects it"


def test_what_is_another_s_by_now_is_not_published(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit()
    claim = worker.claims.claim(job)
    assert claim is not None
    farm.ledger.cancel(job)

    worker.claims.give_back(claim)

    assert farm.status(job).state == "cancelled"
    assert not farm.queue.published


def test_what_cannot_be_given_back_is_left_to_its_lease(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit()
    claim = worker.claims.claim(job)
    assert claim is not None
    farm.ledger.outage.begin()

    worker.claims.give_back(claim)

    farm.ledger.outage.end()
    assert farm.status(job).state == "running"
