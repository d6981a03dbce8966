"""What every operation does to a job in every state, as one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from farm.errors import JobNotFound
from farm.jobs.status import STATES, State
from farm.ledger.ledger import Ledger
from farm.ledger.records import Claim
from tests.fakes.ledger import FakeLedger
from tests.ledgers import BATCH, job

WORKER = "w1"
NAME = job().id


@pytest.fixture(params=[pytest.param("redis", marks=pytest.mark.farm), "memory"])
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """The real one and its stand-in: what is asked of a ledger here is asked of both."""
    yield FakeLedger() if request.param == "memory" else request.getfixturevalue("ledger_on_redis")


def put_in(ledger: Ledger, state: State) -> Claim:
    """One job in `state`; the claim that a worker had, or would have had, on it."""
    ledger.create(BATCH, [job()])
    if state == "queued":
        return Claim(NAME, attempt=1, spec="", priority=5)
    claim = ledger.claim(NAME, WORKER)
    assert claim is not None
    if state in ("done", "failed"):
        assert ledger.finish(claim, WORKER, state, {})
    if state == "cancelled":
        ledger.cancel(NAME)
    return claim


OPERATIONS: dict[str, Callable[[Ledger, Claim], Any]] = {
    "create": lambda ledger, _: ledger.create(BATCH, [job()]) == [NAME],
    "claim": lambda ledger, _: ledger.claim(NAME, "w2") is not None,
    "renew": lambda ledger, claim: ledger.renew(WORKER, [(NAME, claim.attempt, 3)]).lost == set(),
    "finish done": lambda ledger, claim: ledger.finish(claim, WORKER, "done", {"result": "key"}),
    "finish failed": lambda ledger, claim: ledger.finish(claim, WORKER, "failed", {}),
    "release": lambda ledger, claim: ledger.release(claim, WORKER),
    "reap": lambda ledger, _: len(ledger.reap()) == 1,
    "checkpoint": lambda ledger, claim: ledger.checkpoint(claim, WORKER, 3),
    "subscribe to previews": lambda ledger, _: ledger.subscribe_previews([NAME], seconds=60) == [NAME],
    "cancel": lambda ledger, _: ledger.cancel(NAME).before in ("queued", "running"),
    "prioritise": lambda ledger, _: ledger.prioritise({NAME: 9})[NAME].priority == 9,
    "retry": lambda ledger, _: ledger.retry(NAME) in ("failed", "cancelled"),
}

# operation: for each state before, the state after and whether the operation was granted
TABLE: dict[str, dict[State, tuple[State, bool]]] = {
    "create": {
        "queued": ("queued", True),
        "running": ("running", False),
        "done": ("done", False),
        "failed": ("failed", False),
        "cancelled": ("cancelled", False),
    },
    "claim": {
        "queued": ("running", True),
        "running": ("running", False),
        "done": ("done", False),
        "failed": ("failed", False),
        "cancelled": ("cancelled", False),
    },
    "renew": {
        "queued": ("queued", False),
        "running": ("running", True),
        "done": ("done", False),
        "failed": ("failed", False),
        "cancelled": ("cancelled", False),
    },
    "finish done": {
        "queued": ("queued", False),
        "running": ("done", True),
        "done": ("done", True),  # a finish sent twice has the effect, and the answer, of once
        "failed": ("failed", False),
        "cancelled": ("cancelled", False),
    },
    "finish failed": {
        "queued": ("queued", False),
        "running": ("failed", True),
        "done": ("done", False),
        "failed": ("failed", True),
        "cancelled": ("cancelled", False),
    },
    "release": {
        "queued": ("queued", False),
        "running": ("queued", True),
        "done": ("done", False),
        "failed": ("failed", False),
        "cancelled": ("cancelled", False),
    },
    "checkpoint": {
        "queued": ("queued", False),
        "running": ("running", True),
        "done": ("done", False),
        "failed": ("failed", False),
        "cancelled": ("cancelled", False),
    },
    "reap": {  # no lease has lapsed
        "queued": ("queued", False),
        "running": ("running", False),
        "done": ("done", False),
        "failed": ("failed", False),
        "cancelled": ("cancelled", False),
    },
    "subscribe to previews": {
        "queued": ("queued", False),
        "running": ("running", True),
        "done": ("done", False),
        "failed": ("failed", False),
        "cancelled": ("cancelled", False),
    },
    "cancel": {
        "queued": ("cancelled", True),
        "running": ("cancelled", True),
        "done": ("done", False),
        "failed": ("failed", False),
        "cancelled": ("cancelled", False),
    },
    "prioritise": {
        "queued": ("queued", True),
        "running": ("running", False),
        "done": ("done", False),
        "failed": ("failed", False),
        "cancelled": ("cancelled", False),
    },
    "retry": {
        "queued": ("queued", False),
        "running": ("running", False),
        "done": ("done", False),
        "failed": ("queued", True),
        "cancelled": ("queued", True),
    },
}


@pytest.mark.parametrize(
    ("operation", "before", "after", "granted"),
    [(operation, before, *expected) for operation, row in TABLE.items() for before, expected in row.items()],
)
def test_transition(ledger: Ledger, operation: str, before: State, after: State, granted: bool) -> None:
    claim = put_in(ledger, before)

    assert OPERATIONS[operation](ledger, claim) is granted

    assert ledger.get(NAME).state == after
    assert ledger.counts() == {state: int(state == after) for state in STATES}
    assert ledger.waiting("emoji") == int(after == "queued")
    assert [status.id for status in ledger.page(state=after)] == [NAME]


def test_the_table_covers_every_operation_and_state() -> None:
    assert TABLE.keys() == OPERATIONS.keys()
    assert all(tuple(row) == STATES for row in TABLE.values())


@pytest.mark.parametrize("operation", ["cancel", "retry", "get", "spec"])
def test_an_unknown_job_is_said_to_be_unknown(ledger: Ledger, operation: str) -> None:
    with pytest.raises(JobNotFound, match=NAME):
        getattr(ledger, operation)(NAME)


def test_claiming_an_unknown_job_grants_nothing(ledger: Ledger) -> None:
    assert ledger.claim(NAME, WORKER) is None
