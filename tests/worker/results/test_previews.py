"""Previews on their way to the bucket: the newest of each job, and nothing once the job is over."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from PIL import Image

from farm import keys
from farm.bucket.preview import Preview
from farm.bucket.storage import Storage
from farm.errors import ObjectMissing, StorageError
from farm.settings import Settings
from tests.waiting import eventually
from worker.results.previews import Previews


@pytest.fixture
def storage(servers: Settings) -> Storage:
    return Storage(servers)


@pytest.fixture
def previews(storage: Storage) -> Iterator[Previews]:
    previews = Previews(storage)
    previews.start()
    yield previews
    previews.stop()


@pytest.fixture
def job() -> str:
    """A job of this test's own."""
    return keys.job_in_batch(keys.new_batch_id(), 0)


def preview(job: str, step: int, *, attempt: int = 1) -> Preview:
    return Preview(job, attempt, step, (64, 64), Image.new("RGB", (8, 8), (step, 0, 0)))


def stored(storage: Storage, job: str) -> Preview | None:
    key = keys.preview(job)
    try:
        return Preview.from_png(storage.get(key), key=key)
    except ObjectMissing:
        return None


def step_of(storage: Storage, job: str) -> int | None:
    found = stored(storage, job)
    return found.step if found else None


def test_the_newest_preview_is_in_the_bucket_until_the_job_is_over(
    previews: Previews, storage: Storage, job: str
) -> None:
    for step in (1, 2, 3):
        previews.show(preview(job, step))
    eventually(lambda: step_of(storage, job) == 3, "the newest is there")

    previews.forget(job, attempt=1)

    eventually(lambda: stored(storage, job) is None, "it is gone")


def test_what_is_due_is_done_before_the_worker_ends(storage: Storage, job: str) -> None:
    previews = Previews(storage)
    previews.start()
    previews.show(preview(job, 1))
    previews.stop()
    assert step_of(storage, job) == 1

    again = Previews(storage)
    again.start()
    again.forget(job, attempt=2)
    again.stop()
    assert stored(storage, job) is None, "a later attempt removes what a killed worker left"


class Recording(Storage):
    """A real bucket that notes what is asked of it, and holds every request until it is let go."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.asked: list[str] = []
        self.failing = False
        self.open = threading.Event()

    def put(self, key: str, data: bytes, content_type: str) -> None:
        self.asked.append("put")
        assert self.open.wait(30)
        if self.failing:
            raise StorageError("the bucket is away")
        super().put(key, data, content_type)

    def delete(self, key: str) -> None:
        self.asked.append("delete")
        super().delete(key)


@pytest.fixture
def recording(servers: Settings) -> Recording:
    return Recording(servers)


def test_a_slow_bucket_gets_only_the_newest(recording: Recording, job: str) -> None:
    previews = Previews(recording)
    previews.start()
    previews.show(preview(job, 1))
    eventually(lambda: recording.asked, "the first is on its way")
    for step in range(2, 50):
        previews.show(preview(job, step))
    recording.open.set()
    previews.stop()

    assert recording.asked == ["put", "put"]
    assert step_of(recording, job) == 49


def test_nothing_is_asked_of_the_bucket_for_a_job_that_nobody_looked_at(recording: Recording, job: str) -> None:
    previews = Previews(recording)
    previews.start()
    previews.forget(job, attempt=1)
    previews.stop()

    assert recording.asked == []


def test_a_job_that_goes_on_elsewhere_keeps_the_preview_it_has_and_gets_no_other(
    recording: Recording, job: str
) -> None:
    other = keys.job_in_batch(keys.batch_of(job), 1)
    previews = Previews(recording)
    previews.start()
    previews.show(preview(other, 1))
    eventually(lambda: recording.asked, "the thread is held by another job's")
    previews.show(preview(job, 1))
    previews.let_go(job)
    recording.open.set()
    previews.forget(job, attempt=1)
    previews.stop()

    assert recording.asked == ["put"]


def test_a_bucket_that_fails_costs_previews_and_nothing_else(
    recording: Recording, job: str, caplog: pytest.LogCaptureFixture
) -> None:
    recording.open.set()
    recording.failing = True
    previews = Previews(recording)
    previews.start()
    previews.show(preview(job, 1))
    eventually(lambda: caplog.records, "it is told")
    recording.failing = False
    previews.show(preview(job, 2))
    previews.stop()

    assert step_of(recording, job) == 2
    assert caplog.messages == [f"the preview of job {job} is not up to date: the bucket is away"]
