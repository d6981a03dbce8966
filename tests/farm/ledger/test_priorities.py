"""Whose turn it is, and who changes that: on a real Redis and in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from farm.ledger.ledger import Ledger
from farm.ledger.records import Claim, Prioritised
from tests.fakes.ledger import FakeLedger
from tests.ledgers import BATCH, job

NAMES = [job(index).id for index in range(4)]
LAPSED = -1.0  # a lease that ended a second ago


@pytest.fixture(params=[pytest.param("redis", marks=pytest.mark.farm), "memory"])
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """The real one and its stand-in: what is asked of a ledger here is asked of both."""
    yield FakeLedger() if request.param == "memory" else request.getfixturevalue("ledger_on_redis")


def taken(ledger: Ledger, message: str, *models: str) -> Claim:
    """What a message that names a job brings a worker of these models, or of `emoji`."""
    claim = ledger.claim(message, "w1", instead=models or ("emoji",))
    assert claim is not None
    return claim


def test_what_waits_gets_another_turn_and_what_does_not_is_told_as_it_is(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(index) for index in range(4)])
    ledger.cancel(NAMES[2])
    assert ledger.claim(NAMES[3], "w1")

    told = ledger.prioritise({**dict.fromkeys(NAMES, 8), "0" * 16 + "-9999": 8})

    assert told == {
        NAMES[0]: Prioritised("queued", 5, 8),
        NAMES[1]: Prioritised("queued", 5, 8),
        NAMES[2]: Prioritised("cancelled", 5, 5),
        NAMES[3]: Prioritised("running", 5, 5),
    }
    assert [status.priority for status in ledger.get_many(NAMES)] == [8, 8, 5, 5]
    assert ledger.prioritise({NAMES[0]: 8}) == {NAMES[0]: Prioritised("queued", 8, 8)}, (
        "what is sent twice is done once"
    )
    assert ledger.prioritise({}) == {}


def test_the_turns_decide_whichever_message_comes_first(ledger: Ledger) -> None:
    """The first message names the job that is now to be the last, and the last one the first."""
    ledger.create(BATCH, [job(index) for index in range(4)])
    ledger.prioritise({NAMES[0]: 0, NAMES[3]: 9})

    claims = [taken(ledger, message) for message in NAMES]

    assert [claim.job for claim in claims] == [NAMES[3], NAMES[1], NAMES[2], NAMES[0]]
    assert [claim.priority for claim in claims] == [9, 5, 5, 0]
    assert not any(claim.owed for claim in claims), "each has used one message of the model up"
    assert ledger.claim(NAMES[0], "w1", instead=["emoji"]) is None


def test_one_that_is_lowered_to_the_priority_of_others_has_its_turn_by_submission(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(0, priority=5), job(1, priority=9), job(2, priority=5)])
    ledger.prioritise({NAMES[1]: 5})
    assert [taken(ledger, message).job for message in (NAMES[1], NAMES[0], NAMES[2])] == NAMES[:3]


def test_a_claim_without_others_is_of_the_very_job(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(0), job(1, priority=9)])
    claim = ledger.claim(NAMES[0], "w1")
    assert claim is not None and claim.job == NAMES[0]


def test_a_more_urgent_job_of_another_model_goes_first_and_the_message_that_it_used_up_is_owed(ledger: Ledger) -> None:
    lowered, other = job(0, model="lowered", priority=9), job(1, model="other")
    ledger.create(BATCH, [lowered, other])
    ledger.prioritise({lowered.id: 0})

    first = taken(ledger, lowered.id, "lowered", "other")

    assert (first.job, first.owed) == (other.id, lowered.id)
    again = taken(ledger, lowered.id, "lowered", "other")
    assert (again.job, again.owed) == (lowered.id, None)


def test_a_message_of_a_job_that_is_over_is_for_its_model_all_the_same(ledger: Ledger) -> None:
    """It may be the only one that is left for the job that was passed over then."""
    ledger.create(BATCH, [job(0, model="older"), job(1, model="mine"), job(2, model="mine")])
    ledger.prioritise({NAMES[2]: 6})
    assert taken(ledger, NAMES[1], "mine").job == NAMES[2]
    assert taken(ledger, NAMES[2], "older", "mine").job == NAMES[1]
    assert taken(ledger, NAMES[2], "older", "mine").job == NAMES[0], "of another, where none of its own waits"


def test_what_such_a_message_is_owed_for_is_the_job_that_waits(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(0, model="mine"), job(1, model="mine"), job(2, model="other", priority=6)])
    ledger.cancel(NAMES[0])
    claim = taken(ledger, NAMES[0], "mine", "other")
    assert (claim.job, claim.owed) == (NAMES[2], NAMES[1])


def test_no_job_of_another_model_goes_first_that_is_only_as_urgent_or_that_the_worker_does_not_take(
    ledger: Ledger,
) -> None:
    mine, not_taken = (job(index, model="mine") for index in (1, 2)), job(3, model="not-taken", priority=9)
    ledger.create(BATCH, [job(0, model="older"), *mine, not_taken])
    assert taken(ledger, NAMES[2], "older", "mine").job == NAMES[1]


def test_a_claim_whose_answer_was_lost_says_the_same_again(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(0, model="lowered", priority=0), job(1, model="other")])
    twice = [ledger.claim(NAMES[0], "w1", token="t", instead=["lowered", "other"]) for _ in range(2)]
    assert twice[0] is not None and twice[0] == twice[1]
    assert (twice[0].job, twice[0].attempt, twice[0].owed) == (NAMES[1], 1, NAMES[0])


def test_a_suspect_that_is_passed_over_is_owed_its_message(ledger: Ledger) -> None:
    """For nobody takes one whom no message names."""
    ledger.create(BATCH, [job(0), job(1, priority=9)])
    for worker in ("w8", "w9"):
        assert ledger.claim(NAMES[0], worker, lease=LAPSED, alone=True)
        ledger.reap()

    claim = taken(ledger, NAMES[0])

    assert (claim.job, claim.owed) == (NAMES[1], NAMES[0])


def test_a_priority_is_kept_whatever_becomes_of_the_job(ledger: Ledger) -> None:
    ledger.create(BATCH, [job()])
    ledger.prioritise({NAMES[0]: 7})
    assert [waiting.priority for waiting in ledger.republish("emoji", older_than=-1)] == [7]

    assert ledger.release(taken(ledger, NAMES[0]), "w1")
    assert ledger.claim(NAMES[0], "w1", lease=LAPSED)
    assert [reaped.priority for reaped in ledger.reap()] == [7]
    ledger.cancel(NAMES[0])
    ledger.retry(NAMES[0])
    ledger.create(BATCH, [job()])  # as `farm recover` does with what is there

    assert ledger.get(NAMES[0]).priority == 7
    ledger.prioritise({NAMES[0]: 9})
    assert ledger.urgent(["emoji"]) == [NAMES[0]]
    assert taken(ledger, NAMES[0]).priority == 9


def test_those_who_follow_hear_of_it(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(0), job(1)])
    before = ledger.now()
    ledger.prioritise({NAMES[0]: 7, NAMES[1]: 5})
    told = [(event.job, event.state) for event in ledger.events(before, wait=0.01)]
    assert told == [(NAMES[0], "queued")], "of what has changed"


def test_demand_tells_how_urgent_the_jobs_are_that_wait(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(0), job(1, priority=0), job(2, priority=4), job(3, model="other", priority=9)])
    ledger.prioritise({NAMES[0]: 8})
    demand = ledger.demand(["emoji", "other"])
    assert {name: found.priority for name, found in demand.items()} == {"emoji": 4.0, "other": 9.0}


# Only where there are indexes and records that can be damaged


@pytest.mark.farm
def test_places_in_line_are_those_of_the_new_priorities(ledger_on_redis: Ledger) -> None:
    ledger = ledger_on_redis
    ledger.create(BATCH, [job(index) for index in range(4)])
    ledger.prioritise({NAMES[0]: 4, NAMES[3]: 6})
    places = ledger.places(ledger.get_many(NAMES))
    assert sorted(NAMES, key=lambda name: places[name]) == [NAMES[3], NAMES[1], NAMES[2], NAMES[0]]


@pytest.mark.farm
def test_a_record_that_is_made_anew_has_the_priority_that_is_left_of_it(ledger_on_redis: Ledger) -> None:
    ledger = ledger_on_redis
    ledger.create(BATCH, [job(0), job(1)])
    ledger.prioritise(dict.fromkeys(NAMES[:2], 8))
    ledger.redis.hdel(ledger._key("job", NAMES[0]), "spec")
    ledger.redis.hset(ledger._key("job", NAMES[1]), "priority", "urgent")

    restored = ledger.restore(BATCH, [job(0), job(1)])

    assert restored.anew == 2
    assert [status.priority for status in ledger.get_many(NAMES[:2])] == [8, 5]
    assert taken(ledger, NAMES[1]).job == NAMES[0]


@pytest.mark.farm
def test_a_turn_that_is_not_what_the_record_says_is_put_right(ledger_on_redis: Ledger) -> None:
    ledger = ledger_on_redis
    ledger.create(BATCH, [job(0), job(1)])
    ledger.redis.zadd(ledger._key("turn", "emoji"), {NAMES[1]: 0})

    restored = ledger.restore(BATCH, [job(0), job(1)])

    assert restored.indexed == 1
    assert taken(ledger, NAMES[1]).job == NAMES[0]


@pytest.mark.farm
def test_many_are_moved_in_groups(ledger_on_redis: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """For Redis does nothing else meanwhile."""
    monkeypatch.setattr("farm.ledger.ledger.CHUNK", 3)
    ledger = ledger_on_redis
    ledger.create(BATCH, [job(index) for index in range(7)])
    names = [job(index).id for index in range(7)]
    assert list(ledger.prioritise(dict.fromkeys(names, 1))) == names
    assert {status.priority for status in ledger.get_many(names)} == {1}
