"""Rendering: from the beginning, from a checkpoint, and until the job is lost or the worker leaves."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image

from farm import keys
from farm.bucket.preview import Preview
from farm.errors import RenderError
from farm.jobs.request import JobRequest
from farm.jobs.spec import InitReference
from farm.ledger.records import NewJob
from farm.pictures.images import check_init
from tests.fakes.engine import COLOUR
from tests.fakes.worker import FakeFarm, FakeWorker
from tests.pictures import encoded
from worker.engine.request import RenderRequest
from worker.results.trace import TraceWriter


def steps_taken(worker: FakeWorker) -> list[int]:
    """The steps that the worker's engine takes from now on."""
    taken: list[int] = []
    for step in range(1, 10):
        worker.at_step(step, partial(taken.append, step))
    return taken


def checkpoint_of(farm: FakeFarm, job: str, attempt: int = 1) -> bool:
    return keys.checkpoint(job, attempt) in farm.storage.objects


def test_a_cancelled_job_takes_no_further_step_and_leaves_nothing(farm: FakeFarm, tmp_path: Path) -> None:
    worker = FakeWorker(farm, tmp_path, snapshot_every=2)
    [job] = farm.submit()
    taken = steps_taken(worker)
    worker.at_step(3, lambda: farm.ledger.cancel(job), worker.hear)

    status = worker.work(job)

    assert (status.state, status.result) == ("cancelled", None)
    assert taken == [1, 2, 3]
    assert not farm.storage.objects, "its checkpoint neither"


def test_a_job_that_another_took_goes_on_there_from_what_was_kept(farm: FakeFarm, tmp_path: Path) -> None:
    first, second, third = (FakeWorker(farm, tmp_path, name) for name in ("w1", "w2", "w3"))
    [job] = farm.submit()
    first.at_step(2, first.leave)
    first.work(job)

    def lapses() -> None:
        farm.ledger.renew("w2", [(job, 2, 4)], lease=-1.0)
        farm.ledger.reap()
        second.hear()

    second.at_step(4, lapses)

    assert second.work(job).state == "queued"
    assert checkpoint_of(farm, job)
    taken = steps_taken(third)
    status = third.work(job)
    assert (status.state, status.attempt, status.worker) == ("done", 3, "w3")
    assert taken == [3, 4, 5], "two steps were safe"
    assert not checkpoint_of(farm, job)


def test_a_worker_that_leaves_hands_its_job_back_with_all_that_was_done(farm: FakeFarm, tmp_path: Path) -> None:
    worker, heir = FakeWorker(farm, tmp_path), FakeWorker(farm, tmp_path, "w2")
    [job] = farm.submit(trace="numbers")
    worker.at_step(3, worker.leave)

    status = worker.work(job)

    assert (status.state, status.attempt, status.step) == ("queued", 1, 3)
    assert [waiting.job for waiting in farm.queue.published] == [job]
    assert checkpoint_of(farm, job)
    taken = steps_taken(heir)
    assert heir.work(job).state == "done"
    assert taken == [4, 5]
    result = farm.storage.get(keys.attempt_object(job, 2, "trace.jsonl"))
    assert result.count(b"\n") == 5, "the trace has the steps of both"


def test_a_worker_that_leaves_as_it_begins_tells_the_engine(
    farm: FakeFarm, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job] = farm.submit()
    worker.leaving.set()  # after the job was admitted

    cancelled: list[str] = []
    monkeypatch.setattr(worker.engine, "cancel", cancelled.append)

    worker.work(job)

    assert cancelled == [f"{job}#1"], "nobody else would tell the engine"


def test_an_error_of_the_engine_is_the_jobs_with_its_kind_and_words(farm: FakeFarm, worker: FakeWorker) -> None:
    first, second = farm.submit(count=2)
    worker.engine.failures = {f"{first}#1": RenderError("memory", "it does not fit")}

    failed, done = worker.work(first), worker.work(second)

    assert failed.error is not None
    assert (failed.state, failed.error.kind, failed.error.message) == ("failed", "memory", "it does not fit")
    assert done.state == "done"


def test_a_disk_that_fills_up_in_the_midst_stops_the_engine(
    farm: FakeFarm, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    cancelled: list[str] = []
    monkeypatch.setattr(TraceWriter, "add", full)
    monkeypatch.setattr(worker.engine, "cancel", cancelled.append)
    [job] = farm.submit(trace="numbers")

    assert worker.work(job).state == "queued"
    assert cancelled == [f"{job}#1"], "nobody waits for it any more"


def test_a_preview_that_is_wanted_is_shown(farm: FakeFarm, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    [job] = farm.submit()
    worker.at_step(1, lambda: farm.ledger.subscribe_previews([job], seconds=60), worker.hear)
    shown: list[Preview] = []
    monkeypatch.setattr(worker.previews, "show", shown.append)

    worker.work(job)

    assert [(preview.job, preview.attempt, preview.step) for preview in shown] == [(job, 1, 2)]


def put_picture(farm: FakeFarm, picture: Image.Image) -> InitReference:
    """A picture in the farm's bucket."""
    image = check_init(encoded(picture), name="x")
    reference = InitReference(sha256=image.sha256, extension="png", width=image.width, height=image.height)
    farm.storage.put(reference.key, image.data, "image/png")
    return reference


def submit_masked(farm: FakeFarm, init: InitReference, mask: InitReference, **fields: Any) -> str:
    asked = {"prompt": "a cat", "model": "tiny", "steps": 5, "seed": 1, "strength": 1, "init": "a.png", "mask": "m.png"}
    (spec,) = JobRequest.parse({**asked, **fields}).specs(init, default_model="tiny", mask=mask)
    job = keys.job_in_batch("0" * 16, 0)
    farm.ledger.create(keys.batch_of(job), [NewJob(job, spec, 5, {})])
    return job


def half_white(width: int = 64) -> Image.Image:
    mask = Image.new("L", (width, 64))
    mask.paste(255, (0, 0, 32, 64))
    return mask


def test_a_job_that_goes_on_elsewhere_is_given_its_picture_and_its_mask_again(farm: FakeFarm, tmp_path: Path) -> None:
    picture = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    job = submit_masked(farm, put_picture(farm, picture), put_picture(farm, half_white()), mask_blur=0)
    first, second = (FakeWorker(farm, tmp_path / name, name) for name in ("w1", "w2"))
    first.at_step(2, first.leave)
    first.work(job)
    given: list[RenderRequest] = []
    take_step = second.engine._take_step

    def taken(request: RenderRequest, position: int) -> None:
        given.append(request)
        take_step(request, position)

    second.engine._take_step = taken  # type: ignore[method-assign]

    assert second.work(job).state == "done"

    assert given[0].resume is not None and given[0].mask is not None and given[0].picture is not None
    assert np.array_equal(np.asarray(given[0].mask), np.asarray(half_white()))
    assert np.array_equal(np.asarray(given[0].picture), np.asarray(picture))
    with Image.open(io.BytesIO(farm.storage.get(keys.attempt_object(job, 2, "image.png")))) as made:
        pixels = np.asarray(made)
    assert np.array_equal(pixels[:, 32:], np.asarray(picture)[:, 32:])
    assert (pixels[:, :32] == COLOUR).all()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda farm, mask: farm.storage.delete(mask.key), "mask: the init image inputs/.* is not in the bucket"),
        (lambda farm, mask: farm.storage.put(mask.key, b"x", "x"), "mask: inputs/.* is not the picture that was put"),
    ],
    ids=["gone", "changed"],
)
def test_a_mask_that_is_not_what_was_submitted_fails_the_job(
    farm: FakeFarm, worker: FakeWorker, spoil: Callable[[FakeFarm, InitReference], None], said: str
) -> None:
    mask = put_picture(farm, half_white())
    job = submit_masked(farm, put_picture(farm, Image.new("RGB", (64, 64))), mask)
    spoil(farm, mask)
    error = worker.work(job).error
    assert error is not None and error.kind == "invalid"
    assert re.match(said, error.message)


def test_the_white_beneath_what_is_transparent_is_never_seen(farm: FakeFarm, worker: FakeWorker) -> None:
    picture, mask = Image.new("RGBA", (64, 64), (20, 60, 200, 255)), half_white()
    picture.putalpha(mask.point(lambda level: 255 - level))
    job = submit_masked(farm, put_picture(farm, picture), put_picture(farm, mask))
    assert worker.work(job).state == "done"
    with Image.open(io.BytesIO(farm.storage.get(keys.attempt_object(job, 1, "image.png")))) as made:
        pixels = np.asarray(made).astype(int)
    least, most = np.minimum(COLOUR, (20, 60, 200)), np.maximum(COLOUR, (20, 60, 200))
    assert (pixels >= least - 2).all() and (pixels <= most + 2).all()


def test_a_job_by_which_next_to_nothing_is_redone_says_so(farm: FakeFarm, worker: FakeWorker) -> None:
    mask = Image.new("L", (64, 64))
    mask.putpixel((30, 30), 255)
    init = put_picture(farm, Image.new("RGB", (64, 64)))
    status = worker.work(submit_masked(farm, init, put_picture(farm, mask), only_masked=0))
    assert status.state == "done"
    [said] = status.warnings
    assert said.startswith("next to nothing of the picture was redone") and "--mask-blur 0" in said


def test_a_forged_mask_of_another_size_fails_the_job(farm: FakeFarm, worker: FakeWorker) -> None:
    init, mask = put_picture(farm, Image.new("RGB", (64, 64))), put_picture(farm, half_white(72))
    error = worker.work(submit_masked(farm, init, mask)).error
    assert error is not None and "the mask has 72×64 pixels, and the picture 64×64" in error.message
