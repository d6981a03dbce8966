"""Checkpoints on their way to the bucket and back: a saving, never a duty."""

from __future__ import annotations

import pytest
import torch

from farm import keys
from farm.bucket.results import ModelUsed
from farm.jobs.spec import ResolvedSpec
from farm.ledger.records import Claim
from tests.fakes.ledger import FakeLedger
from tests.fakes.storage import FakeStorage
from tests.ledgers import BATCH, job
from worker.diffusion.noise import NoiseStream
from worker.diffusion.steps import HISTORY
from worker.engine.request import Snapshot
from worker.results import checkpoint as module
from worker.results.checkpoint import Checkpoint, Checkpoints

SHAPE = (4, 8, 8)
MODEL = ModelUsed(name="emoji", source="here", revision=None)
SPEC = ResolvedSpec.of(job().spec, width=64, height=64, scale=7.5)
JOB = job().id


@pytest.fixture
def storage() -> FakeStorage:
    return FakeStorage()


@pytest.fixture
def ledger() -> FakeLedger:
    made = FakeLedger()
    made.create(BATCH, [job()])
    return made


@pytest.fixture
def checkpoints(storage: FakeStorage, ledger: FakeLedger) -> Checkpoints:
    return Checkpoints(storage, ledger, "w1")


def claimed(ledger: FakeLedger, worker: str = "w1") -> Claim:
    claim = ledger.claim(JOB, worker)
    assert claim is not None
    return claim


def at(step: int) -> Checkpoint:
    history = torch.zeros((HISTORY, *SHAPE))
    return Checkpoint(Snapshot(step, torch.ones(SHAPE), history, NoiseStream(seed=0).state, 1.0), {})


def test_the_next_attempt_goes_on_from_the_last_that_was_saved(
    checkpoints: Checkpoints, storage: FakeStorage, ledger: FakeLedger
) -> None:
    first = claimed(ledger)
    assert checkpoints.load(first, SPEC, MODEL, SHAPE) is None
    assert checkpoints.save(first, SPEC, MODEL, at(7)) and checkpoints.save(first, SPEC, MODEL, at(9))
    checkpoints.let_go(first)
    ledger.release(first, "w1")

    second = claimed(ledger)

    found = checkpoints.load(second, SPEC, MODEL, SHAPE)
    assert found is not None and found.snapshot.position == 9
    assert list(storage.objects) == [keys.checkpoint(JOB, 1)], "one an attempt"


def test_who_lost_the_job_keeps_nothing_of_it(
    checkpoints: Checkpoints, storage: FakeStorage, ledger: FakeLedger
) -> None:
    claim = claimed(ledger)
    ledger.cancel(JOB)

    assert not checkpoints.save(claim, SPEC, MODEL, at(7))
    assert not storage.objects


@pytest.mark.parametrize("away", ["storage", "ledger"])
def test_what_cannot_be_saved_is_done_without(
    checkpoints: Checkpoints, storage: FakeStorage, ledger: FakeLedger, away: str
) -> None:
    claim = claimed(ledger)
    (storage if away == "storage" else ledger).outage.begin(calls=1)

    assert not checkpoints.save(claim, SPEC, MODEL, at(7))
    assert checkpoints.save(claim, SPEC, MODEL, at(8)), "the next one is"


def test_a_trace_that_is_too_long_is_not_kept(
    checkpoints: Checkpoints, storage: FakeStorage, ledger: FakeLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    snapshot = at(7).snapshot

    assert not checkpoints.save(claimed(ledger), SPEC, MODEL, Checkpoint(snapshot, {"trace.jsonl": bytes(76)}))
    assert not storage.objects


@pytest.mark.parametrize("what", ["gone", "cut", "of another model", "away"])
def test_a_job_whose_checkpoint_cannot_be_used_starts_over(
    checkpoints: Checkpoints, storage: FakeStorage, ledger: FakeLedger, what: str
) -> None:
    first = claimed(ledger)
    other = ModelUsed(name="other", source="here", revision=None)
    checkpoints.save(first, SPEC, other if what == "of another model" else MODEL, at(7))
    ledger.release(first, "w1")
    second, key = claimed(ledger), keys.checkpoint(JOB, 1)
    if what == "gone":
        storage.delete(key)
    elif what == "cut":
        storage.objects[key] = storage.objects[key][:-10]
    elif what == "away":
        storage.outage.begin()

    assert checkpoints.load(second, SPEC, MODEL, SHAPE) is None


def test_of_a_job_that_is_over_those_of_both_attempts_are_removed(
    checkpoints: Checkpoints, storage: FakeStorage, ledger: FakeLedger
) -> None:
    first = claimed(ledger)
    checkpoints.save(first, SPEC, MODEL, at(7))
    ledger.release(first, "w1")
    second = claimed(ledger)
    checkpoints.save(second, SPEC, MODEL, at(9))
    assert set(storage.objects) == {keys.checkpoint(JOB, 1), keys.checkpoint(JOB, 2)}

    checkpoints.forget(second)

    assert not storage.objects
