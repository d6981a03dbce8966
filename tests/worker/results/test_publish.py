"""Publishing: each object once, with its checksum, and the result when all are there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from farm import keys
from farm.bucket.fetch import read_result
from farm.bucket.results import ModelUsed, ResultObject
from farm.errors import StorageError
from farm.jobs.spec import ResolvedSpec
from farm.ledger.records import Claim
from tests.fakes.storage import FakeStorage
from tests.ledgers import job
from worker.results.finished import Artifact, Finished
from worker.results.publish import Publisher

CLAIM = Claim(job().id, 3, "", 5)
SPEC = ResolvedSpec.of(job().spec, width=64, height=64, scale=7.5)
MODEL = ModelUsed(name="emoji", source="here", revision=None)


@pytest.fixture
def storage() -> FakeStorage:
    return FakeStorage()


@pytest.fixture
def publisher(storage: FakeStorage) -> Publisher:
    return Publisher(storage, worker="w1", device="cpu")


def finished(folder: Path) -> Finished:
    (folder / "numbers").write_bytes(b"{}\n")
    artifacts = (
        Artifact("image.png", "image/png", b"picture"),
        Artifact("trace.jsonl", "application/jsonl", folder / "numbers"),
    )
    return Finished(SPEC, MODEL, "float32", ("a word was cut",), {"render": 1.23456}, artifacts)


def test_objects_lie_below_their_attempt_with_their_checksums(
    publisher: Publisher, storage: FakeStorage, tmp_path: Path
) -> None:
    objects: dict[str, ResultObject] = {}
    publisher.upload(CLAIM, finished(tmp_path), objects)

    assert storage.put_order == [keys.attempt_object(CLAIM.job, 3, name) for name in ("image.png", "trace.jsonl")]
    named = {name: (one.sha256, one.size, one.content_type) for name, one in objects.items()}
    assert named == {
        "image.png": (hashlib.sha256(b"picture").hexdigest(), 7, "image/png"),
        "trace.jsonl": (hashlib.sha256(b"{}\n").hexdigest(), 3, "application/jsonl"),
    }


def test_what_is_there_already_is_not_sent_again(publisher: Publisher, storage: FakeStorage, tmp_path: Path) -> None:
    objects: dict[str, ResultObject] = {}
    put = storage.put

    def full_after_the_first(key: str, data: bytes, content_type: str) -> None:
        put(key, data, content_type)
        storage.outage.begin(calls=1)

    storage.put = full_after_the_first  # type: ignore[method-assign]
    with pytest.raises(StorageError):
        publisher.upload(CLAIM, finished(tmp_path), objects)
    assert set(objects) == {"image.png"}

    publisher.upload(CLAIM, finished(tmp_path), objects)

    assert [key.rpartition("/")[2] for key in storage.put_order] == ["image.png", "trace.jsonl"]


def test_the_seal_says_all_that_was_used(publisher: Publisher, storage: FakeStorage, tmp_path: Path) -> None:
    objects: dict[str, ResultObject] = {}
    publisher.upload(CLAIM, finished(tmp_path), objects)

    result = publisher.seal(CLAIM, finished(tmp_path), objects)

    assert read_result(storage, keys.attempt_result(CLAIM.job, 3)).to_json() == result.to_json()
    assert (result.attempt, result.worker, result.device, result.dtype) == (3, "w1", "cpu", "float32")
    assert (result.spec, result.model, result.warnings) == (SPEC, MODEL, ("a word was cut",))
    assert result.timings == {"render": 1.2346}
    assert {"render-farm", "torch", "diffusers", "transformers"} <= result.versions.keys()
    assert storage.put_order[-1] == keys.attempt_result(CLAIM.job, 3), "last of all"
