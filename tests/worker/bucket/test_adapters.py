"""LoRAs as a worker has them: fetched once, read for a model, and kept in memory as far as there is room."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from farm import keys
from farm.bucket.loras import LORAS
from farm.bucket.storage import Writable
from farm.errors import ModelError, StorageError
from farm.jobs.loras import LoraUse
from tests.fakes.adapters import put_lora, read_fake
from tests.fakes.model import FakeModel
from tests.fakes.storage import FakeStorage
from worker.bucket.adapters import Adapters
from worker.bucket.model_cache import ModelCache
from worker.diffusion.adapters import Adapter

MODEL: Any = FakeModel("tiny")


class Bucket(FakeStorage):
    """Counts what is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched = Counter[str]()

    def copy(self, key: str, file: Writable, *, limit: int | None = None) -> None:
        self.fetched[key] += 1
        super().copy(key, file, limit=limit)


class Reader:
    """Counts what is read, and does something meanwhile."""

    def __init__(self) -> None:
        self.read = Counter[str]()
        self.meanwhile: Callable[[Path], None] = lambda _: None

    def __call__(self, path: Path, name: str, sha256: str, model: Any) -> Adapter:
        self.read[name] += 1
        self.meanwhile(path)
        return read_fake(path, name, sha256, model)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def adapters(bucket: Bucket, reader: Reader, tmp_path: Path) -> Adapters:
    return some(bucket, reader, tmp_path)


def some(bucket: Bucket, reader: Reader, folder: Path, *, most: int = 1_000) -> Adapters:
    return Adapters(bucket, ModelCache(folder / "cache", bucket, 10_000, LORAS), most, read=reader)


def test_a_file_is_fetched_and_read_once(adapters: Adapters, bucket: Bucket, reader: Reader) -> None:
    use = put_lora(bucket, b"one")
    first = adapters.get(use, MODEL)

    assert (first.name, first.sha256) == ("detail", use.sha256)
    assert adapters.get(use.model_copy(update={"unet": 0.5}), MODEL) is first
    assert (bucket.fetched.total(), reader.read.total()) == (1, 1)


def test_every_model_and_every_file_has_an_adapter_of_its_own(
    adapters: Adapters, bucket: Bucket, reader: Reader
) -> None:
    use, other = put_lora(bucket, b"one"), put_lora(bucket, b"two")
    other_model: Any = FakeModel("b")
    anew: Any = FakeModel("tiny", source="elsewhere")
    made = {id(adapters.get(one, model)) for one in (use, other) for model in (MODEL, other_model, anew)}

    assert len(made) == 6
    assert bucket.fetched.total() == 2


def test_what_was_used_the_longest_ago_makes_room(bucket: Bucket, reader: Reader, tmp_path: Path) -> None:
    adapters = some(bucket, reader, tmp_path, most=25)
    one, two, three = (
        put_lora(bucket, sign * 10, name) for sign, name in ((b"1", "one"), (b"2", "two"), (b"3", "three"))
    )
    for use in (one, two, one, three, one, two):
        adapters.get(use, MODEL)

    assert reader.read == {"one": 1, "two": 2, "three": 1}
    large = put_lora(bucket, b"x" * 100, "large")
    assert adapters.get(large, MODEL) is adapters.get(large, MODEL), "the latest stays, however large"


def test_many_jobs_that_need_the_same_read_it_once(adapters: Adapters, bucket: Bucket, reader: Reader) -> None:
    use = put_lora(bucket, b"one")
    begun, go_on = threading.Event(), threading.Event()

    def wait(_: Path) -> None:
        begun.set()
        assert go_on.wait(30)

    reader.meanwhile = wait
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(adapters.get, use, MODEL)
        assert begun.wait(30)
        others = [pool.submit(adapters.get, use, MODEL) for _ in range(3)]
        go_on.set()
        assert {id(future.result(30)) for future in others} == {id(first.result(30))}
    assert reader.read == {"detail": 1}


def test_a_file_that_was_damaged_on_the_disk_is_fetched_again(
    adapters: Adapters, bucket: Bucket, reader: Reader, tmp_path: Path
) -> None:
    use = put_lora(bucket, b"one-two-")

    def damage(path: Path) -> None:
        if reader.read.total() == 1:
            path.resolve().write_bytes(b"nonsense")

    reader.meanwhile = damage
    assert adapters.get(use, MODEL).unet["tiny.layer"].down.shape == (8, 1)
    assert (bucket.fetched.total(), reader.read.total()) == (2, 2)


def test_a_file_that_no_worker_can_read_is_read_once(adapters: Adapters, bucket: Bucket, reader: Reader) -> None:
    with pytest.raises(ModelError, match=r"^the LoRA 'detail' cannot be loaded: nonsense"):
        adapters.get(put_lora(bucket, b"nonsense"), MODEL)
    assert reader.read.total() == 1


def test_what_is_not_there_or_not_what_it_should_be_is_told(adapters: Adapters, bucket: Bucket) -> None:
    use = put_lora(bucket, b"one")
    bucket.put(keys.lora_blob(use.sha256 or ""), b"two", "application/octet-stream")
    with pytest.raises(
        ModelError, match=r"a file of the LoRA 'detail' is damaged in the bucket: loras/blobs/.*--again"
    ):
        adapters.get(use, MODEL)
    bucket.delete(keys.lora_blob(use.sha256 or ""))
    with pytest.raises(ModelError, match=r"the farm keeps the file of the LoRA 'detail' no longer, loras/blobs/"):
        adapters.get(use, MODEL)
    with pytest.raises(ModelError, match="it is not said which file the LoRA 'detail' is"):
        adapters.get(LoraUse(name="detail"), MODEL)


def test_a_bucket_that_is_away_is_no_fault_of_the_file(adapters: Adapters, bucket: Bucket) -> None:
    known, other = put_lora(bucket, b"one"), put_lora(bucket, b"two")
    adapters.get(known, MODEL)
    bucket.outage.begin()
    assert adapters.get(known, MODEL)
    with pytest.raises(StorageError):
        adapters.get(other, MODEL)
    bucket.outage.end()
    assert adapters.get(other, MODEL)
