"""A worker does what operators wish of it, as it hears of it."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from farm.errors import LedgerUnavailable
from tests.fakes.ledger import FakeLedger
from tests.ledgers import a_worker
from worker.draining import DRAINED, Draining
from worker.leases.announcing import Announcer
from worker.queue.intake import Intake


def test_a_drained_worker_takes_nothing_more_and_finishes_what_it_has() -> None:
    suspended, intake = Mock(), Intake()
    draining = Draining(intake, suspend_all=suspended, held=lambda: ["a job"])
    assert not draining.hear(None) and intake.is_open

    assert draining.hear("finish")
    assert not draining.hear("finish")
    assert (draining.is_on, intake.reason, suspended.call_count) == (True, DRAINED, 0)

    assert draining.hear(None)
    assert not draining.hear(None)
    assert not draining.is_on and intake.is_open


def test_what_is_handed_back_is_let_go_of_until_nothing_is_held() -> None:
    suspended, intake, held = Mock(), Intake(), ["a job"]
    draining = Draining(intake, suspend_all=suspended, held=lambda: held)
    draining.hear("finish")
    assert not draining.hear("hand-back"), "it was drained already"
    draining.hear("hand-back")
    assert suspended.call_count == 2, "what had not reached the engine is let go of the next time"
    held.clear()
    draining.hear("hand-back")
    assert suspended.call_count == 2


def test_it_says_at_once_that_it_is_drained_and_that_it_is_not_any_more() -> None:
    ledger, intake = FakeLedger(), Intake()
    draining = Draining(intake, suspend_all=Mock(), held=lambda: ())

    def as_it_is() -> dict[str, object]:
        return {"drained": draining.is_on, "paused": intake.reason}

    announcer = Announcer(ledger, a_worker("gpu-0a1b"), as_it_is, hear=draining.hear)
    ledger.drain(["gpu"], "finish")
    announcer.announce()
    [told] = ledger.workers()
    assert (told.condition, told.paused) == ("drained", DRAINED)

    ledger.outage.begin()
    announcer.announce()
    with pytest.raises(LedgerUnavailable):
        announcer.say()
    ledger.outage.end()
    assert draining.is_on, "nobody has said anything else"

    ledger.resume(["gpu"])
    announcer.announce()
    [told] = ledger.workers()
    assert (told.condition, told.paused) == ("ready", None)
