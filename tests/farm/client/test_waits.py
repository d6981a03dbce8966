"""Why jobs wait that no worker takes: told once to whoever follows them."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from farm.client import FarmClient, waits
from farm.client.waits import TellsOnce, held_up
from farm.jobs.request import JobRequest
from farm.jobs.status import WorkerInfo
from farm.ledger.records import Event
from tests.ledgers import a_worker

FULL = "the model 'mine' needs 9 bytes more"
REFUSING = a_worker("w1-0a1b", models=["emoji"], refused={"mine": FULL})
PAUSED = a_worker("w2-0a1b", models=["mine"], paused="the bucket is away")
DRAINED = a_worker("w3-0a1b", models=["mine"], drained=True)
READY = a_worker("w4-0a1b", models=["mine"])
KEPT = ("mine", "minimal")

WHY: dict[str, tuple[str, list[WorkerInfo], str | None]] = {
    "taken": ("mine", [READY, PAUSED, REFUSING], None),
    "refused": ("mine", [REFUSING], f"the model 'mine'; its jobs wait until one does (w1-0a1b: {FULL})"),
    "paused": ("mine", [PAUSED], "'mine' now; they wait until one does (w2-0a1b: the bucket is away)"),
    "drained": ("mine", [DRAINED], "is drained by an operator; its jobs wait until one is resumed ('farm workers"),
    "paused or drained": ("mine", [PAUSED, DRAINED], "(w2-0a1b: the bucket is away; w3-0a1b: drained by an operator)"),
    "kept": (
        "mine",
        [],
        "no live worker serves the model 'mine'; its jobs wait until one does (workers without --model take it up "
        "within seconds, and 'farm worker --model mine' serves it)",
    ),
    "built in": ("sd14", [], "its jobs wait until one does ('farm worker --model sd14' serves it)"),
    "mistyped": ("minimla", [], "(did you mean 'minimal'? 'farm worker --model minimla=SOURCE' serves it)"),
    "mistyped, of a worker's own": (
        "hers",
        [a_worker(models=["others"])],
        "(did you mean 'others'? 'farm worker --model hers=SOURCE' serves it)",
    ),
    "mistyped, of what comes along": (
        "emogi",
        [],
        "(did you mean 'emoji'? 'farm worker --model emogi=SOURCE' serves it)",
    ),
    "nobody's": ("zzz", [], "('farm worker --model zzz=SOURCE' serves it)"),
}


@pytest.mark.parametrize("case", WHY)
def test_it_is_said_why_jobs_of_a_model_wait(case: str) -> None:
    model, workers, said = WHY[case]
    found = held_up([model], workers, lambda: KEPT)
    assert found.keys() == ({model} if said else set())
    assert said is None or said in found[model]


def test_the_bucket_is_asked_only_for_names_that_nobody_knows() -> None:
    def kept() -> Collection[str]:
        pytest.fail("it was asked")

    assert held_up(["mine", "emoji", "sd14"], [REFUSING], kept).keys() == {"mine", "sd14"}


def test_each_reason_is_told_once_and_looked_for_now_and_then(
    client: FarmClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job] = client.submit([JobRequest(prompt="a cat", model="mine", seed=1)]).jobs
    statuses, told, looked = client.status([job]), list[str](), list[str]()
    reasons = iter(["one", "one", "another", "one"])

    def why(models: Collection[str]) -> dict[str, str]:
        looked.extend(models)
        return {"mine": next(reasons)}

    tells = TellsOnce(why, told.append)  # type: ignore[arg-type]
    for _ in range(3):
        tells.look(statuses)
    assert (looked, told) == (["mine"], ["one"])
    monkeypatch.setattr(waits, "LOOK_SECONDS", 0.0)
    for _ in range(3):
        tells.look(statuses)
    assert (looked, told) == (["mine"] * 4, ["one", "another"])
    client.cancel([job])
    tells.look(client.status([job]))
    assert len(looked) == 4, "nothing waits"


def test_who_follows_hears_of_a_refusal_that_came_after_the_submission(
    client: FarmClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "LOOK_SECONDS", 0.0)
    client.ledger.announce(READY)
    submission = client.submit([JobRequest(prompt="a cat", model="mine", seed=1)])
    assert submission.warnings == ()
    heard: list[str] = []
    events, reads = client.ledger.events, iter(range(3))

    def few_events(cursor: str, *, wait: float) -> list[Event]:
        if next(reads, None) is None:
            client.cancel(submission.jobs)
        return events(cursor, wait=0.01)

    monkeypatch.setattr(client.ledger, "events", few_events)
    changes = client.watch(submission.jobs, on_wait=heard.append)
    assert next(changes).state == "queued"
    client.ledger.announce(READY.model_copy(update={"models": (), "refused": {"mine": FULL}}))
    assert [status.state for status in changes] == ["cancelled"]
    assert heard == [f"no live worker serves the model 'mine'; its jobs wait until one does ({READY.id}: {FULL})"]
