"""What the farm does with objects, in a real bucket and in memory."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from farm.bucket.storage import Storage, StoredObject
from farm.errors import ObjectMissing, ObjectTooLarge
from tests.fakes.storage import FakeStorage


@pytest.fixture(params=[pytest.param("a server", marks=pytest.mark.farm), "memory"])
def storage(request: pytest.FixtureRequest) -> Storage:
    return FakeStorage() if request.param == "memory" else request.getfixturevalue("bucket_of_a_server")


@pytest.fixture
def prefix() -> str:
    return f"test/{secrets.token_hex(8)}/"


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 40_000], ids=["empty", "a byte", "10 MB"])
def test_what_is_put_is_got(storage: Storage, prefix: str, data: bytes) -> None:
    storage.put(prefix + "a", data, "application/octet-stream")
    assert storage.get(prefix + "a") == data
    assert storage.exists(prefix + "a")


def test_a_put_replaces(storage: Storage, prefix: str) -> None:
    storage.put(prefix + "a", b"first", "text/plain")
    storage.put(prefix + "a", b"second", "text/plain")
    assert storage.get(prefix + "a") == b"second"


def test_an_object_comes_as_a_file(storage: Storage, prefix: str, tmp_path: Path) -> None:
    storage.put(prefix + "film.mp4", b"film" * 1_000_000, "video/mp4")
    storage.download(prefix + "film.mp4", tmp_path / "film.mp4")
    assert (tmp_path / "film.mp4").read_bytes() == b"film" * 1_000_000


def test_what_is_missing_is_said_to_be(storage: Storage, prefix: str) -> None:
    with pytest.raises(ObjectMissing, match=f"could not get s3://farm/{prefix}a at http://127"):
        storage.get(prefix + "a")
    assert not storage.exists(prefix + "a")


def test_a_limit_is_kept(storage: Storage, prefix: str) -> None:
    storage.put(prefix + "a", b"x" * 100, "text/plain")
    assert len(storage.get(prefix + "a", limit=100)) == 100
    with pytest.raises(ObjectTooLarge, match="has 100 bytes, more than 99"):
        storage.get(prefix + "a", limit=99)


def test_listing_is_in_order_and_only_of_the_prefix(storage: Storage, prefix: str) -> None:
    for name in ("b", "a/2", "a/1"):
        storage.put(prefix + name, name.encode(), "text/plain")
    assert list(storage.list(prefix)) == [
        StoredObject(prefix + "a/1", 3),
        StoredObject(prefix + "a/2", 3),
        StoredObject(prefix + "b", 1),
    ]
    assert list(storage.list(prefix + "none/")) == []


def test_deleting_twice_is_fine(storage: Storage, prefix: str) -> None:
    storage.put(prefix + "a", b"x", "text/plain")
    storage.delete(prefix + "a")
    storage.delete(prefix + "a")
    assert not storage.exists(prefix + "a")


def test_what_is_new_is_put_and_replaces_nothing(storage: Storage, prefix: str) -> None:
    storage.put_new(prefix + "a", b"first", "text/plain")
    storage.put_new(prefix + "a", b"second", "text/plain")
    assert storage.get(prefix + "a") == b"first"
