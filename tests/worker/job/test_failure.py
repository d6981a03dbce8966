"""What becomes of a job that could not be done."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from farm import keys
from farm.errors import InvalidInput, ModelError, ModelUnavailable, RenderError, StorageError, WrongState
from tests.fakes.worker import FakeFarm, FakeWorker
from worker.host import disk

REASONS = {
    "memory": RenderError("memory", "told"),
    "invalid": InvalidInput("told"),
    "model": ModelError("told"),
    "storage": StorageError("told"),
    "refused": WrongState("told"),
    "internal": ZeroDivisionError("told"),
}


@pytest.mark.parametrize("kind", REASONS)
def test_a_job_fails_with_a_word_for_programs_and_a_sentence_for_people(
    farm: FakeFarm, worker: FakeWorker, kind: str
) -> None:
    [job] = farm.submit()
    worker.engine.failures = {f"{job}#1": REASONS[kind]}

    status = worker.work(job)

    assert status.error is not None
    assert (status.state, status.error.kind) == ("failed", kind)
    assert status.error.message == ("ZeroDivisionError: told" if kind == "internal" else "told")
    assert worker.intake.is_open and not worker.keeper.held


def test_a_job_whose_model_cannot_be_had_for_now_goes_back(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit()
    worker.engine.failures = {f"{job}#1": ModelUnavailable("the disk is full")}

    assert worker.work(job).state == "queued"
    assert [waiting.job for waiting in farm.queue.published] == [job]


def test_a_failed_job_leaves_no_checkpoint(farm: FakeFarm, tmp_path: Path) -> None:
    worker = FakeWorker(farm, tmp_path, snapshot_every=2)
    [job] = farm.submit()
    failure = {f"{job}#1": RenderError("memory", "told")}
    worker.at_step(3, lambda: setattr(worker.engine, "failures", failure))

    assert worker.work(job).state == "failed"
    assert keys.checkpoint(job, 1) in farm.storage.put_order
    assert not farm.storage.objects


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def workspace() -> NoReturn:
        raise OSError(28, "No space left on device", "/tmp")

    monkeypatch.setattr(disk, "workspace", workspace)
    monkeypatch.setattr(disk, "has_room", lambda: False)


def test_a_job_that_a_full_disk_cannot_hold_goes_back_twice_and_then_fails(
    farm: FakeFarm, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch)
    [job] = farm.submit(trace="numbers")

    states = [worker.work(job).state for _ in range(3)]

    assert states == ["queued", "queued", "failed"]
    status = farm.status(job)
    assert status.error is not None
    reason = "the disk of w1 cannot hold the trace: No space left on device: /tmp"
    assert (status.error.kind, status.error.message) == ("disk", reason)
    assert [waiting.job for waiting in farm.queue.published] == [job, job]


def test_a_disks_refusals_are_counted_job_by_job(
    farm: FakeFarm, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = farm.submit(trace="numbers", count=3)
    full_disk(monkeypatch)

    assert {worker.work(job).state for job in jobs} == {"queued"}


def test_a_worker_whose_disk_is_full_says_why_and_takes_no_others_meanwhile(
    farm: FakeFarm, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch)
    reasons: list[str | None] = []
    monkeypatch.setattr(farm.queue, "publish", lambda _: reasons.append(worker.intake.reason))
    [job] = farm.submit(trace="numbers")

    worker.work(job)

    assert reasons == ["the disk of w1 cannot hold the trace: No space left on device: /tmp"]
    assert worker.intake.is_open


def test_an_error_of_files_that_is_not_the_disks_is_the_jobs(
    farm: FakeFarm, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def workspace() -> NoReturn:
        raise OSError(2, "No such file or directory")

    monkeypatch.setattr(disk, "workspace", workspace)
    [job] = farm.submit(trace="numbers")

    status = worker.work(job)

    assert status.error is not None and status.error.kind == "internal"


def test_a_failure_that_cannot_be_told_is_left_to_the_lease(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit()
    worker.engine.failures = {f"{job}#1": RenderError("memory", "told")}
    worker.engine.before_each = farm.ledger.outage.begin

    worker.runner.run(job)

    farm.ledger.outage.end()
    assert farm.status(job).state == "running"


def test_a_failure_of_one_who_lost_the_job_changes_nothing(farm: FakeFarm, tmp_path: Path) -> None:
    zombie, heir = FakeWorker(farm, tmp_path / "1"), FakeWorker(farm, tmp_path / "2", "w2")
    [job] = farm.submit()
    zombie.engine.failures = {f"{job}#1": RenderError("memory", "told")}

    def sleeps() -> None:
        farm.ledger.renew("w1", [(job, 1, 0)], lease=-1.0)
        farm.ledger.reap()
        heir.work(job)

    zombie.engine.before_each = sleeps

    status = zombie.work(job)

    assert (status.state, status.attempt) == ("done", 2)
