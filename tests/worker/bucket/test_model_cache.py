"""The farm's models on a machine's disk: fetched once, checked, bounded, and shared by its workers."""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from farm import keys
from farm.bucket.models import StoredModel
from farm.bucket.storage import Writable
from farm.errors import ModelError, ModelUnavailable, StorageError
from tests.fakes.storage import FakeStorage
from tests.worker.bucket.kept import put_model
from worker.bucket import model_cache
from worker.bucket.model_cache import ModelCache


class Bucket(FakeStorage):
    """Counts what is fetched, and does something on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched = Counter[str]()
        self.before: Callable[[str], None] = lambda _: None

    def copy(self, key: str, file: Writable, *, limit: int | None = None) -> None:
        self.fetched[key] += 1
        self.before(key)
        super().copy(key, file, limit=limit)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def cache(bucket: Bucket, tmp_path: Path) -> ModelCache:
    return a_cache(bucket, tmp_path)


def a_cache(bucket: Bucket, folder: Path, *, most: int = 1_000) -> ModelCache:
    return ModelCache(folder / "cache", bucket, most)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def on_disk(folder: Path) -> set[str]:
    return {path.name for path in (folder / "cache" / "blobs").iterdir()}


def opened(cache: ModelCache, model: StoredModel) -> dict[str, bytes]:
    with cache.opened(model) as folder:
        return files(folder)


def test_files_are_fetched_once_and_seen_under_their_names(bucket: Bucket, cache: ModelCache, tmp_path: Path) -> None:
    model = put_model(bucket, "mine", one=b"1", two=b"22", same=b"1")
    for _ in range(2):
        assert opened(cache, model) == {"unet/one.json": b"1", "unet/two.json": b"22", "unet/same.json": b"1"}
    assert set(bucket.fetched.values()) == {1}
    assert on_disk(tmp_path) == set(model.blobs)
    assert not list((tmp_path / "cache" / "using").iterdir())


def test_workers_that_want_the_same_at_once_fetch_it_once(bucket: Bucket, tmp_path: Path) -> None:
    """Each has a cache of its own on the one folder, as processes have."""
    model = put_model(bucket, "mine", one=b"1" * 100, two=b"2" * 100)
    others = threading.Barrier(4)
    caches = [a_cache(bucket, tmp_path) for _ in range(4)]

    def bring(cache: ModelCache) -> dict[str, bytes]:
        others.wait(60)
        return opened(cache, model)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(bring, caches))
    assert all(one == found[0] for one in found)
    assert set(bucket.fetched.values()) == {1}
    assert on_disk(tmp_path) == set(model.blobs)


def test_what_was_used_the_longest_ago_goes_first(bucket: Bucket, tmp_path: Path) -> None:
    cache = a_cache(bucket, tmp_path, most=200)
    a, b, c = (put_model(bucket, name, x=name.encode() * 100) for name in "abc")
    for number, model in enumerate((a, b)):
        opened(cache, model)
        for sha256 in model.blobs:
            os.utime(tmp_path / "cache" / "blobs" / sha256, (number, number))
    cache.keep([a])

    opened(cache, c)

    assert on_disk(tmp_path) == {*a.blobs, *c.blobs}


def test_what_is_in_use_stays_even_if_it_is_too_much(bucket: Bucket, tmp_path: Path) -> None:
    cache, another = (a_cache(bucket, tmp_path, most=100) for _ in range(2))
    a, b, c = (put_model(bucket, name, x=name.encode() * 100) for name in "abc")
    with cache.opened(a) as folder, another.opened(b):
        assert on_disk(tmp_path) == {*a.blobs, *b.blobs}
        assert files(folder)
    opened(cache, c)
    assert on_disk(tmp_path) == set(c.blobs)


def test_what_a_killed_worker_left_is_cleared_away(bucket: Bucket, tmp_path: Path) -> None:
    cache = a_cache(bucket, tmp_path, most=100)
    a, b = (put_model(bucket, name, x=name.encode() * 100) for name in "ab")
    opened(cache, a)
    (tmp_path / "cache" / "using" / "1-dead").write_text("\n".join(a.blobs))
    (tmp_path / "cache" / "blobs" / f"{'0' * 64}.part").write_bytes(b"half")

    opened(cache, b)

    assert on_disk(tmp_path) == set(b.blobs)
    assert not list((tmp_path / "cache" / "using").iterdir())


def test_a_model_larger_than_the_cache_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    model = put_model(bucket, "large", x=b"x" * 101)
    with pytest.raises(ModelError, match=r"the model 'large' has .* GB, and the cache only .*--model-cache-gb"):
        opened(a_cache(bucket, tmp_path, most=100), model)
    assert not bucket.fetched


def test_a_disk_without_room_may_have_some_later(
    bucket: Bucket, cache: ModelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = put_model(bucket, "old", x=b"o" * 30), put_model(bucket, "new", x=b"n" * 50)
    opened(cache, old)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=model_cache._LEFT_FREE))
    with pytest.raises(ModelUnavailable, match=r"the model 'new' needs 50 bytes more, but .* has room for only 30"):
        opened(cache, new)
    assert on_disk(tmp_path) == set(), "others left first"
    monkeypatch.undo()
    assert opened(cache, new)


def test_a_disk_that_is_full_in_the_end_leaves_nothing_half(bucket: Bucket, cache: ModelCache, tmp_path: Path) -> None:
    model = put_model(bucket, "mine", x=b"x")

    def is_full(_: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    bucket.before = is_full
    with pytest.raises(ModelUnavailable, match=r"'mine' cannot be kept in .*No space left on device \(is there room"):
        opened(cache, model)
    assert on_disk(tmp_path) == set()
    bucket.before = lambda _: None
    assert opened(cache, model)


def test_a_bucket_that_is_away_leaves_nothing_half(bucket: Bucket, cache: ModelCache, tmp_path: Path) -> None:
    model = put_model(bucket, "mine", x=b"x")
    bucket.outage.begin()
    with pytest.raises(StorageError):
        opened(cache, model)
    bucket.outage.end()
    assert on_disk(tmp_path) == set()
    assert opened(cache, model)


@pytest.mark.parametrize("damaged", [b"2", b"", b"11"], ids=["other", "cut short", "too long"])
def test_what_comes_damaged_is_fetched_once_more_and_then_refused(
    bucket: Bucket, cache: ModelCache, tmp_path: Path, damaged: bytes
) -> None:
    model = put_model(bucket, "mine", x=b"1")
    (key,) = map(keys.model_blob, model.blobs)
    bucket.objects[key] = damaged
    with pytest.raises(ModelError, match=r"is damaged in the bucket: .*'farm models add --again mine=SOURCE'"):
        opened(cache, model)
    assert bucket.fetched[key] == 2
    assert on_disk(tmp_path) == set()


def test_what_comes_damaged_once_is_used_when_it_comes_whole(bucket: Bucket, cache: ModelCache) -> None:
    model = put_model(bucket, "mine", x=b"1")
    (key,) = map(keys.model_blob, model.blobs)

    def damage_the_first(_: str) -> None:
        bucket.objects[key] = b"2" if bucket.fetched[key] == 1 else b"1"

    bucket.before = damage_the_first
    assert opened(cache, model) == {"unet/x.json": b"1"}


def test_what_is_gone_from_the_bucket_is_told(bucket: Bucket, cache: ModelCache) -> None:
    model = put_model(bucket, "mine", x=b"1")
    (key,) = map(keys.model_blob, model.blobs)
    bucket.delete(key)
    with pytest.raises(ModelError, match=r"is not in the bucket: models/blobs/.*was the model removed"):
        opened(cache, model)


def test_what_is_damaged_on_the_disk_is_fetched_again(bucket: Bucket, cache: ModelCache, tmp_path: Path) -> None:
    model = put_model(bucket, "mine", cut=b"111", other=b"222")
    opened(cache, model)
    assert not cache.mend(model)
    cut, other = (tmp_path / "cache" / "blobs" / file.sha256 for file in model.files.values())
    cut.write_bytes(b"11")
    other.write_bytes(b"333")

    assert opened(cache, model)["unet/cut.json"] == b"111", "what is cut short is seen at once"
    assert cache.mend(model), "what is not, when it cannot be loaded"
    assert opened(cache, model)["unet/other.json"] == b"222"
