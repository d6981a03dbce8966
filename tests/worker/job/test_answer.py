"""A study's way: claimed, answered by errands of the engine, delivered, finished."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from farm import keys
from farm.bucket.fetch import read_result
from farm.errors import RenderError
from farm.jobs.answers import Similar
from farm.jobs.limits import Limits
from farm.jobs.request import JobRequest
from farm.jobs.spec import InitReference
from farm.jobs.status import Waiting
from farm.ledger.records import NewJob
from tests.fakes import worker as fake_worker
from tests.fakes.model import FakeModel
from tests.fakes.worker import FakeFarm, FakeWorker
from tests.ledgers import BATCH
from worker.studies import kinds
from worker.studies.study import Answered, Asked, Compute

JOB = keys.job_in_batch(BATCH, 0)


def submit(farm: FakeFarm, **fields: Any) -> str:
    request = JobRequest.parse({"mode": "schedule", "model": "tiny", "steps": 9, **fields})
    init = InitReference(sha256="0" * 64, extension="png") if "init" in fields else None
    farm.ledger.create(BATCH, [NewJob(JOB, request.specs(init, default_model="tiny")[0], request.priority, {})])
    return JOB


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What the study does, in place of its own work; each is one errand."""
    work: list[Callable[[], object]] = [lambda: None]

    def study(asked: Asked, compute: Compute) -> Answered:
        done = [compute(piece) for piece in work]
        told = [f"{len(done)} pieces", f"{asked.spec.steps} steps"]
        return Answered(Similar(prompts=tuple(told), cosines=((1, 0), (0, 1)), cut=((), ())), (), ("beware",))

    monkeypatch.setattr(kinds, "BY_NAME", dict.fromkeys(kinds.BY_NAME, study))
    return work


def test_a_study_is_claimed_answered_delivered_and_finished(
    farm: FakeFarm, worker: FakeWorker, pieces: list[Callable[[], object]]
) -> None:
    pieces *= 2
    status = worker.work(submit(farm))

    assert (status.state, status.attempt, status.step, status.steps) == ("done", 1, 1, 1)
    assert status.warnings == ("beware",)
    assert status.result is not None
    result = read_result(farm.storage, status.result)
    assert set(result.objects) == {"answer.json"}
    assert json.loads(farm.storage.get(result.objects["answer.json"].key))["prompts"] == ["2 pieces", "9 steps"]
    assert {"queued", "model", "answer", "total", "publish"} == result.timings.keys()
    assert farm.storage.get(keys.result(JOB)) == farm.storage.get(status.result), "it was promoted"
    assert (worker.runner.done, worker.runner.images_per_minute) == (1, 0), "it is no picture"
    assert not worker.engine.rendered


def test_a_study_that_fails_does_so_with_a_reason(
    farm: FakeFarm, worker: FakeWorker, pieces: list[Callable[[], object]]
) -> None:
    worker.engine.failures = {f"{JOB}#1": RenderError("memory", "told")}
    status = worker.work(submit(farm))
    assert (status.state, status.error and (status.error.kind, status.error.message)) == ("failed", ("memory", "told"))


def test_a_study_is_answered_anew_after_a_crash(
    farm: FakeFarm, worker: FakeWorker, pieces: list[Callable[[], object]], tmp_path: Path
) -> None:
    job = submit(farm)
    FakeWorker(farm, tmp_path / "other", "w0").crash_with(job)

    status = worker.work(job)

    assert (status.state, status.attempt) == ("done", 2)


def test_a_study_that_was_cancelled_goes_no_further(
    farm: FakeFarm, worker: FakeWorker, pieces: list[Callable[[], object]]
) -> None:
    def cancel() -> None:
        farm.ledger.cancel(JOB)
        worker.hear()

    pieces[:] = [cancel, lambda: pytest.fail("nobody wants it")]
    assert worker.work(submit(farm)).state == "cancelled"
    assert not farm.storage.objects


def test_a_worker_that_leaves_gives_a_study_back(
    farm: FakeFarm, worker: FakeWorker, pieces: list[Callable[[], object]]
) -> None:
    pieces[:] = [worker.leave, lambda: pytest.fail("it leaves")]
    assert worker.work(submit(farm)).state == "queued"
    assert farm.queue.published == [Waiting(JOB, "tiny", 9)]


def test_a_time_limit_holds_between_pieces(
    farm: FakeFarm, worker: FakeWorker, pieces: list[Callable[[], object]]
) -> None:
    pieces *= 2
    status = worker.work(submit(farm, time_limit=1e-9))
    assert status.error and status.error.kind == "timeout"


def test_a_picture_beyond_the_operators_limits_is_refused(
    farm: FakeFarm, tmp_path: Path, pieces: list[Callable[[], object]]
) -> None:
    worker = FakeWorker(farm, tmp_path, limits=Limits(side=64, steps=2))
    status = worker.work(submit(farm, mode="roundtrip", init=b"picture", width=128))
    assert status.error and (status.error.kind, "128 pixels a side" in status.error.message) == ("limit", True)


def test_a_picture_that_is_not_in_the_bucket_is_told(
    farm: FakeFarm, worker: FakeWorker, pieces: list[Callable[[], object]]
) -> None:
    status = worker.work(submit(farm, mode="roundtrip", init=b"picture"))
    assert status.error and (status.error.kind, "is not in the bucket" in status.error.message) == ("invalid", True)


def test_an_answer_waits_on_the_spool_for_the_bucket(
    farm: FakeFarm, worker: FakeWorker, pieces: list[Callable[[], object]]
) -> None:
    counted: list[int] = []
    pieces[:] = [lambda: counted.append(1)]
    farm.storage.outage.begin()
    job = submit(farm)
    assert worker.work(job).state == "queued"
    farm.storage.outage.end()
    assert worker.work(job).state == "done"
    assert counted == [1], "it was not asked again"


def test_an_answer_names_the_files_of_its_model_too(
    farm: FakeFarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: list[Callable[[], object]]
) -> None:
    """A round trip is what its autoencoder makes of it."""
    of_files = partial(FakeModel, sha256="12" * 32, vae_file="better.safetensors", vae_sha256="ab" * 32)
    monkeypatch.setattr(fake_worker, "FakeModel", of_files)

    status = FakeWorker(farm, tmp_path).work(submit(farm))

    assert status.result is not None
    model = read_result(farm.storage, status.result).model
    assert (model.sha256, model.vae, model.vae_sha256) == ("12" * 32, "better.safetensors", "ab" * 32)
