"""A job's way: claimed, rendered, delivered, finished."""

from __future__ import annotations

import hashlib
import io
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from farm import keys
from farm.bucket.fetch import read_result
from farm.jobs.limits import Limits
from tests.fakes import worker as fake_worker
from tests.fakes.engine import COLOUR
from tests.fakes.model import FakeModel
from tests.fakes.worker import FakeFarm, FakeWorker
from worker.host import disk


def test_a_job_is_claimed_rendered_delivered_and_finished(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit(trace="numbers")

    status = worker.work(job)

    assert (status.state, status.attempt, status.worker, status.step) == ("done", 1, "w1", 5)
    assert status.result == keys.attempt_result(job, 1)
    result = read_result(farm.storage, status.result)
    assert set(result.objects) == {"image.png", "trace.jsonl"}
    assert {"queued", "model", "render", "decode", "total", "publish"} <= result.timings.keys()
    picture = farm.storage.get(result.objects["image.png"].key)
    assert hashlib.sha256(picture).hexdigest() == result.objects["image.png"].sha256
    assert Image.open(io.BytesIO(picture)).getpixel((0, 0)) == COLOUR
    assert farm.storage.get(result.objects["trace.jsonl"].key).count(b"\n") == 5
    assert worker.runner.done == worker.runner.images_per_minute == 1


def test_the_result_is_written_when_its_objects_are_there_and_promoted_when_the_ledger_knows_it(
    farm: FakeFarm, worker: FakeWorker
) -> None:
    [job] = farm.submit()
    worker.work(job)

    wanted = [keys.attempt_object(job, 1, "image.png"), keys.attempt_result(job, 1), keys.result(job)]
    assert farm.storage.put_order == wanted
    assert farm.storage.get(keys.result(job)) == farm.storage.get(keys.attempt_result(job, 1))
    assert farm.ledger.unpromoted(older_than=0.0) == {}


def test_a_result_and_its_picture_name_the_files_that_made_it(
    farm: FakeFarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_files = partial(FakeModel, sha256="12" * 32, vae_file="better.safetensors", vae_sha256="ab" * 32)
    monkeypatch.setattr(fake_worker, "FakeModel", of_files)
    [job] = farm.submit()

    status = FakeWorker(farm, tmp_path).work(job)

    assert status.result is not None
    result = read_result(farm.storage, status.result)
    model = result.model
    assert (model.sha256, model.vae, model.vae_sha256) == ("12" * 32, "better.safetensors", "ab" * 32)
    written = Image.open(io.BytesIO(farm.storage.get(result.objects["image.png"].key))).info["parameters"]
    assert "Model hash: 1212121212, " in written
    assert ", VAE hash: ababababab, VAE: better.safetensors, " in written


def test_nothing_is_left_of_a_finished_job(farm: FakeFarm, tmp_path: Path) -> None:
    worker = FakeWorker(farm, tmp_path, snapshot_every=2)
    [job] = farm.submit()
    worker.work(job)

    assert any(key.endswith("checkpoint.safetensors") for key in farm.storage.put_order), "it was checkpointed"
    assert set(farm.storage.objects) == {
        keys.attempt_object(job, 1, "image.png"),
        keys.attempt_result(job, 1),
        keys.result(job),
    }
    assert not worker.keeper.held
    assert worker.intake.is_open


def test_a_message_of_a_job_that_does_not_wait_brings_the_next_that_does(farm: FakeFarm, worker: FakeWorker) -> None:
    over, waiting = farm.submit(count=2)
    farm.ledger.cancel(over)

    worker.work(over)

    assert farm.status(waiting).state == "done"


def test_a_message_for_which_nothing_waits_does_nothing(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit()
    worker.work(job)
    before = dict(farm.storage.objects)

    assert worker.work(job).attempt == 1
    assert farm.storage.objects == before


def test_a_job_of_a_model_that_is_not_served_goes_back(farm: FakeFarm, tmp_path: Path) -> None:
    [job] = farm.submit()

    status = FakeWorker(farm, tmp_path, models=("other",)).work(job)

    assert (status.state, status.attempt) == ("queued", 1)
    assert [waiting.job for waiting in farm.queue.published] == [job]


def test_a_job_of_a_model_whose_jobs_are_not_taken_any_more_goes_back(farm: FakeFarm, worker: FakeWorker) -> None:
    """Its message came just before."""
    [job] = farm.submit()
    worker.claims.served.take(())

    status = worker.work(job)

    assert (status.state, status.attempt) == ("queued", 1)
    assert [waiting.job for waiting in farm.queue.published] == [job]


def test_no_job_of_another_model_is_taken_instead_whose_jobs_are_not_taken(farm: FakeFarm, tmp_path: Path) -> None:
    worker = FakeWorker(farm, tmp_path, models=("tiny", "other"))
    over, _ = farm.submit(count=2)
    farm.ledger.cancel(over)
    worker.claims.served.take(["other"])
    assert worker.claims.claim(over) is None
    worker.claims.served.take(["tiny"])
    assert worker.claims.claim(over) is not None


def test_a_job_beyond_the_workers_limits_fails_before_the_engine_hears_of_it(farm: FakeFarm, tmp_path: Path) -> None:
    worker = FakeWorker(farm, tmp_path, limits=Limits(steps=4))
    [job] = farm.submit()

    status = worker.work(job)

    assert status.error is not None
    assert (status.state, status.error.kind) == ("failed", "limit")
    assert not worker.engine.rendered


def test_a_worker_that_takes_nothing_offers_the_job_again(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit()
    worker.intake.close("it is leaving")

    status = worker.work(job)

    assert (status.state, status.attempt) == ("queued", 0)
    assert [(waiting.job, waiting.model, waiting.priority) for waiting in farm.queue.published] == [(job, "tiny", 5)]


@pytest.mark.parametrize("what", ["over", "unknown"])
def test_what_does_not_wait_is_not_offered_again(farm: FakeFarm, worker: FakeWorker, what: str) -> None:
    [job] = farm.submit()
    farm.ledger.cancel(job)
    worker.intake.close("it is leaving")

    worker.runner.run(job if what == "over" else "0000000000000000-9999")

    assert not farm.queue.published


def test_a_suspect_is_rendered_alone_with_a_time_limit_of_its_own(farm: FakeFarm, worker: FakeWorker) -> None:
    [suspect] = farm.submit()
    for other in ("w8", "w9"):
        FakeWorker(farm, Path(), other).crash_with(suspect)
    open_in_the_midst: list[bool] = []
    worker.at_step(2, lambda: open_in_the_midst.append(worker.intake.is_open))

    status = worker.work(suspect)

    assert (status.state, status.attempt) == ("done", 3)
    assert open_in_the_midst == [False], "nobody else suffers from it"
    assert worker.engine.rendered[0].spec.time_limit == 1_800
    assert worker.intake.is_open


def test_a_suspect_that_cannot_be_alone_is_offered_again(farm: FakeFarm, worker: FakeWorker) -> None:
    [suspect] = farm.submit()
    for other in ("w8", "w9"):
        FakeWorker(farm, Path(), other).crash_with(suspect)

    claim = farm.ledger.claim

    def closes_meanwhile(*arguments: object, **options: object) -> object:
        worker.intake.close("it is leaving")
        return claim(*arguments, **options)  # type: ignore[arg-type]

    farm.ledger.claim = closes_meanwhile  # type: ignore[method-assign,assignment]
    status = worker.work(suspect)

    assert status.state == "queued"
    assert [waiting.job for waiting in farm.queue.published] == [suspect]


def test_a_job_without_a_trace_needs_no_disk(
    farm: FakeFarm, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_disk() -> None:
        raise AssertionError("a workspace was made")

    monkeypatch.setattr(disk, "workspace", no_disk)
    [job] = farm.submit()

    assert worker.work(job).state == "done"
