"""Ids and keys: whatever a name is, what is made of it stays below its prefix, and its file below its folder."""

from __future__ import annotations

import re
import string
from contextlib import suppress
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from farm import keys
from farm.bucket.fetch import _destination
from farm.errors import FarmError, InvalidInput
from farm.queue import queue_name
from tests.fuzzing import fuzz, words
from worker.bucket.models import _place

JOB = "0" * 16 + "-0003"
# Near misses: the letters of ids and names, and those that climb, divide or hide.
near = st.one_of(
    words, st.text(alphabet="0a-.zA/\\\0\n %٣é_~", max_size=24), st.from_regex(r"[0-9a-z-]{16}-\d{3,7}\n?")
)
segments = st.lists(st.one_of(st.sampled_from(("..", ".", "", "image.png", "trace", "~", "\0")), near), max_size=4)
names = st.one_of(near, segments.map("/".join))
SAFE = set(string.ascii_lowercase + string.digits + "._-/")


@fuzz(200)
@given(near, st.one_of(st.integers(), st.sampled_from((0, 1, 10**9, -1))), names)
def test_keys_of_a_job(job: str, attempt: int, name: str) -> None:
    for owner in (job, JOB):
        try:
            key = keys.attempt_object(owner, attempt, name)
        except InvalidInput:
            continue
        assert key.startswith(f"jobs/{owner}/{attempt}/")
        assert set(key) <= SAFE
        assert ".." not in key.split("/") and "." not in key.split("/") and "" not in key.split("/")
        assert len(key) < 300


@fuzz(200)
@given(near)
def test_ids_are_what_they_look_like(text: str) -> None:
    """No id holds what only looks like a digit, or ends in a line break."""
    if keys.is_job_id(text):
        assert re.fullmatch(r"[0-9a-z]{16}-[0-9]{4,6}", text, re.ASCII)
        assert keys.batch_of(text) == text[:16]
        assert keys.result(text) == f"jobs/{text}/result.json"
    if keys.is_batch_id(text):
        assert keys.batch_manifest(text) == f"batches/{text}.json"


@fuzz(120)
@given(st.integers(0, 10**6 - 1))
def test_every_made_id_is_one(index: int) -> None:
    job = keys.job_in_batch(keys.new_batch_id(), index)
    assert keys.is_job_id(job)
    assert int(job.rpartition("-")[2]) == index


@fuzz(200)
@given(names, names)
def test_init_images_and_models(text: str, extension: str) -> None:
    with suppress(InvalidInput):
        assert re.fullmatch(r"inputs/[0-9a-f]{64}\.(png|jpeg|webp)", keys.init_image(text, extension))
    with suppress(InvalidInput):
        assert re.fullmatch(r"farm\.[a-z0-9][a-z0-9._-]{0,63}", queue_name(text))


@fuzz(200)
@given(near, names)
def test_files_that_are_fetched(job: str, name: str) -> None:
    out = Path("/somewhere/out")
    for owner in (job, JOB):
        try:
            keys.job_id(owner)
            path = _destination(out, owner, name)
        except InvalidInput:
            continue
        assert path.resolve().is_relative_to(out)
        assert path.resolve() == path


@fuzz(200)
@given(name=names)
def test_files_of_a_model_in_a_bucket(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    with suppress(FarmError, ValueError, OSError):  # which the fetcher tells as one
        assert _place(folder, name).is_relative_to(folder)
    assert set(tmp_path.iterdir()) <= {folder}
