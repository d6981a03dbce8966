"""Waiting for a bucket or a ledger, with something to do once it is back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from farm.errors import LedgerUnavailable, ObjectMissing, StorageError
from farm.ledger.records import Claim
from farm.ledger.timing import Timing
from tests.fakes.worker import FakeWorker
from worker.job.retry import HandBack, Lost, Retrier
from worker.leases.keeper import Holding


@pytest.fixture
def holding() -> Holding:
    return Holding(Claim("0000000000000000-0000", 1, "", 5))


def failing(*errors: Exception) -> Callable[[], str]:
    left = list(errors)

    def action() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return action


def test_what_succeeds_at_once_is_done_once_and_nothing_waits(worker: FakeWorker, holding: Holding) -> None:
    meanwhile: list[str] = []

    answer = worker.retrier.until_done(holding, failing(), meanwhile=lambda: meanwhile.append("waited"))

    assert (answer, meanwhile) == ("done", [])


def test_the_bucket_is_waited_for_with_the_intake_paused_and_something_done_once_meanwhile(
    worker: FakeWorker, holding: Holding
) -> None:
    reasons: list[str | None] = []
    errors = [StorageError("away"), StorageError("still away"), LedgerUnavailable("and now this")]

    answer = worker.retrier.until_done(
        holding, failing(*errors), meanwhile=lambda: reasons.append(worker.intake.reason)
    )

    assert (answer, reasons) == ("done", ["the bucket cannot be used: away"])
    assert worker.intake.is_open


def test_the_ledger_is_waited_for_with_the_intake_open(worker: FakeWorker, holding: Holding) -> None:
    seen: list[bool] = []
    errors = [LedgerUnavailable("away")]

    def action() -> str:
        seen.append(worker.intake.is_open)
        return failing(*[errors.pop()] if errors else [])()

    assert worker.retrier.until_done(holding, action) == "done"
    assert seen == [True, True]


@pytest.mark.parametrize("before", [0, 1])
def test_an_error_that_is_an_answer_is_raised(worker: FakeWorker, holding: Holding, before: int) -> None:
    action = failing(*[StorageError("away")] * before, ObjectMissing("it is not there"))

    with pytest.raises(ObjectMissing):
        worker.retrier.until_done(holding, action, final=(ObjectMissing,))
    assert worker.intake.is_open


def test_an_error_of_neither_is_raised(worker: FakeWorker, holding: Holding) -> None:
    with pytest.raises(ZeroDivisionError):
        worker.retrier.until_done(holding, failing(ZeroDivisionError()))


def test_a_job_that_is_lost_meanwhile_is_let_go(worker: FakeWorker, holding: Holding) -> None:
    with pytest.raises(Lost):
        worker.retrier.until_done(holding, failing(StorageError("away")), meanwhile=holding.lost.set)


def test_a_worker_that_leaves_hands_back_at_once(worker: FakeWorker, holding: Holding) -> None:
    patient = Retrier(worker.intake, worker.leaving, Timing(again=60.0))

    with pytest.raises(HandBack):
        patient.until_done(holding, failing(StorageError("away")), meanwhile=worker.leaving.set)


def test_patience_ends_with_the_job_handed_back_or_left_to_its_lease(worker: FakeWorker, holding: Holding) -> None:
    hasty = Retrier(worker.intake, worker.leaving, Timing(again=0.05, patience=0.1))

    with pytest.raises(HandBack):
        hasty.until_done(holding, failing(*[StorageError("away")] * 100))
    with pytest.raises(LedgerUnavailable):
        hasty.until_done(holding, failing(*[LedgerUnavailable("away")] * 100))


def test_pauses_grow_to_a_bound(worker: FakeWorker, holding: Holding, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    patient = Retrier(worker.intake, worker.leaving)
    monkeypatch.setattr(patient, "_wait", lambda _, seconds, __: pauses.append(seconds))

    patient.until_done(holding, failing(*[StorageError("away")] * 8))

    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]
