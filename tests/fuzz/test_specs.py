"""Specs, requests, results, manifests, records and announcements: whatever they say, they are taken or refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm import keys
from farm.bucket.fetch import _destination
from farm.bucket.manifest import BatchManifest, read_manifest
from farm.bucket.results import IMAGE, JobResult
from farm.errors import FarmError, InvalidInput, LedgerUnavailable, StorageError
from farm.jobs.answers import Roundtrip, read_answer
from farm.jobs.request import JobRequest
from farm.jobs.spec import (
    MAX_NOISE_STEPS,
    MAX_PROMPT_CHARACTERS,
    MAX_SIDE,
    MAX_STEPS,
    STUDIES,
    InitReference,
    JobSpec,
    Study,
)
from farm.jobs.status import JobStatus
from farm.ledger.records import read_worker
from tests.fuzzing import anything, bounded_memory, fuzz, numbers, spoilt, words
from tests.ledgers import a_worker

JOB = "0" * 16 + "-0003"
PICTURE = InitReference(sha256="0" * 64, extension="png")
REQUEST: dict[str, Any] = {
    "mode": "mix",
    "prompt": ["an otter", "a cat"],
    "weights": [0.4, 0.6],
    "mix_with": [{"prompt": "a fox", "weight": 0.25}],
    "negative": "rain",
    "init": "sketch.png",
    "mask": "mask.png",
    "redo": "black",
    "mask_blur": 9,
    "fill": "noise",
    "only_masked": 32,
    "outpaint": {"left": 8, "top": 0, "right": 0, "bottom": 16},
    "original_size": {"width": 4096, "height": 4096},
    "crop": "128,0",
    "target_size": "1024x1024",
    "strength": 0.5,
    "losses": [{"name": "color", "arguments": {"red": 0.5}, "scale": 10, "every": 2}],
    "guidance": 4.0,
    "sampler": "euler",
    "steps": 20,
    "seed": 7,
    "count": 2,
    "width": 128,
    "height": 64,
    "model": "emoji",
    "priority": 9,
    "trace": "video",
    "trace_every": 2,
    "time_limit": 60,
    "labels": {"project": "otters"},
}
SPEC = JobRequest.parse(REQUEST).specs(PICTURE, default_model="emoji", mask=PICTURE)[0].model_dump(mode="json")
ASKED: dict[str, Any] = {
    **{"mode": "roundtrip", "init": "sketch.png", "encode": "mean", "fit": "pad", "noise_steps": [4, 10]},
    **{"sampler": "euler", "steps": 20, "seed": 7, "count": 2, "width": 128, "height": 64, "labels": {"a": "b"}},
}
STUDY = JobRequest.parse(ASKED).specs(PICTURE, default_model="emoji")[0].model_dump(mode="json")
ANSWER: dict[str, Any] = {
    **{"study": "roundtrip", "encode": "mean", "pixels": [64, 64], "latents": [4, 8, 8], "numbers": [12_288, 256]},
    **{"psnr": 27.5, "amplified": 8.0, "sampler": "lms", "steps": 15},
    "channels": [{"low": -1.0, "high": 1.0, "mean": 0.0, "deviation": 1.0}],
    "noised": [{"step": 4, "timestep": 285.0, "alpha": 1.0, "sigma": 2.0, "psnr": None}],
}
RESULT: dict[str, Any] = {
    "job": JOB,
    "batch": keys.batch_of(JOB),
    "attempt": 2,
    "worker": "w1",
    "spec": SPEC,
    "objects": {
        name: {"key": keys.attempt_object(JOB, 2, name), "sha256": "0" * 64, "size": 5, "content_type": "image/png"}
        for name in (IMAGE, "trace/0001.jpeg")
    },
    "model": {"name": "emoji", "source": "here", "revision": None},
    "device": "cpu",
    "dtype": "float32",
    "timings": {"total": 1.0},
    "versions": {},
    "warnings": ["x"],
    "finished": "2026-01-01T00:00:00Z",
}
MANIFEST: dict[str, Any] = {
    "batch": keys.batch_of(JOB),
    "jobs": [
        {"id": keys.job_in_batch("0" * 16, index), "spec": SPEC, "priority": 5, "labels": {"a": "b"}}
        for index in range(2)
    ],
}
RECORD = {
    **{"batch": "0" * 16, "state": "failed", "step": "3", "steps": "30", "attempt": "1", "worker": "w1"},
    **{"model": "emoji", "priority": "5", "submitted": "1700000000000", "started": "1700000000000", "prompt": "x"},
    **{"finished": "1700000000001", "error": '{"kind": "nan", "message": "m"}', "result": "jobs/x/1/result.json"},
    **{"labels": '{"a": "b"}', "warnings": '["w"]'},
}


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    with bounded_memory():
        yield


def accepted(read: Callable[[], Any], refusal: type[FarmError]) -> Any:
    """What was read, or None if it was refused as it should be. Any other exception is the test's."""
    try:
        return read()
    except refusal as error:
        assert 0 < len(str(error)) < 25_000
        return None


def as_json(document: Any) -> str:
    return json.dumps(document, default=str)


@fuzz(160)
@given(st.one_of(spoilt(SPEC), spoilt(STUDY), anything))
def test_specs(document: Any) -> None:
    spec = accepted(lambda: JobSpec.from_json(as_json(document)), InvalidInput)
    if spec is not None:
        within_bounds(spec)
        assert JobSpec.from_json(spec.to_json()) == spec


@fuzz(120)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_spec(data: bytes) -> None:
    assert accepted(lambda: JobSpec.from_json(data), InvalidInput) is None


@fuzz(160)
@given(
    st.one_of(spoilt(REQUEST), spoilt(ASKED), st.dictionaries(st.sampled_from(tuple(REQUEST)), anything, max_size=5))
)
def test_requests(document: Any) -> None:
    def specs() -> list[JobSpec]:
        request = JobRequest.parse(document)
        return request.model_copy(update={"count": 1}).specs(PICTURE, default_model="emoji")

    if isinstance(document, dict):
        for spec in accepted(specs, InvalidInput) or ():
            within_bounds(spec)
            assert JobSpec.from_json(spec.to_json()) == spec, "the worker takes what the client sends"


@fuzz(160)
@given(st.one_of(spoilt(RESULT), anything))
def test_results(document: Any) -> None:
    result = accepted(lambda: JobResult.from_json(as_json(document).encode(), key="x"), StorageError)
    if result is not None:
        for name, stored in result.objects.items():
            assert stored.key == f"jobs/{result.job}/{result.attempt}/{name}"
            stays_inside(result.job, name)


@fuzz(120)
@given(st.one_of(spoilt(ANSWER), anything), st.sampled_from(STUDIES))
def test_answers(document: Any, study: Study) -> None:
    answer = accepted(lambda: read_answer(as_json(document).encode(), study, key="x"), StorageError)
    if isinstance(answer, Roundtrip):
        assert answer.ratio >= 0 and len(answer.noised) <= MAX_NOISE_STEPS


@fuzz(160)
@given(spoilt(MANIFEST))
def test_manifests(document: Any) -> None:
    manifest = accepted(lambda: read_manifest(_Held(as_json(document).encode()), "0" * 16), InvalidInput)  # type: ignore[arg-type]
    if manifest is not None:
        assert isinstance(manifest, BatchManifest)
        assert [job.id for job in manifest.jobs] == [f"{'0' * 16}-{index:04d}" for index in range(len(manifest.jobs))]


class _Held:
    """A bucket with one object in it."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def get(self, _key: str, *, limit: int) -> bytes:
        assert limit < 2**30
        return self._data


@fuzz(160)
@given(st.dictionaries(st.sampled_from(tuple(RECORD)), st.one_of(words, numbers.map(str)), max_size=3))
def test_records_of_the_ledger(changes: dict[str, str]) -> None:
    record = RECORD | changes
    status = accepted(lambda: JobStatus.from_record(JOB, record), LedgerUnavailable)
    if status is not None:
        assert keys.model_name(status.model) == status.model
        assert status.worker is None or status.worker.isprintable()
        assert status.steps >= 1


@fuzz(160)
@given(st.one_of(spoilt(a_worker(losses=()).model_dump(mode="json")), anything))
def test_announcements(document: Any) -> None:
    worker = read_worker(as_json(document))
    if worker is not None:
        assert all(word.isprintable() for word in (worker.id, worker.host, worker.device, worker.version))
        assert all(keys.model_name(name) for name in worker.models)
        assert worker.started.tzinfo is not None


def within_bounds(spec: JobSpec) -> None:
    assert 1 <= spec.steps_to_do <= spec.steps <= MAX_STEPS
    assert all(64 <= side <= MAX_SIDE for side in (spec.width, spec.height) if side is not None)
    assert all(len(prompt.text) <= MAX_PROMPT_CHARACTERS for prompt in spec.conditioning.prompts)
    assert len(spec.conditioning.prompts) <= 31
    assert keys.model_name(spec.model) == spec.model
    if spec.start.image:
        assert spec.start.image.key.startswith("inputs/")


def stays_inside(job: str, name: str) -> None:
    out = Path("/somewhere/out")
    assert _destination(out, job, name).resolve().is_relative_to(out)
