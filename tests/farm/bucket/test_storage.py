"""What the farm relies on in an S3 server, on a real one."""

from __future__ import annotations

import secrets
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farm.bucket.connection import in_parts
from farm.bucket.storage import Storage
from farm.errors import InvalidInput, ObjectMissing, ObjectTooLarge, StorageError
from farm.settings import Settings
from farm.stack import doctor
from farm.stack.verdict import Check


@pytest.fixture
def prefix() -> str:
    return f"test/{secrets.token_hex(8)}/"


def test_a_presigned_link_opens_without_credentials(storage: Storage, prefix: str) -> None:
    storage.put(prefix + "a", b"seen", "text/plain")
    with urllib.request.urlopen(storage.presign(prefix + "a", seconds=60), timeout=10) as answer:
        assert answer.read() == b"seen"


def test_a_bucket_is_made_once(servers: Settings) -> None:
    storage = Storage(replace(servers, s3_bucket=f"b{secrets.token_hex(6)}"))
    storage.ensure_bucket()
    storage.ensure_bucket()
    storage.put("a", b"x", "text/plain")
    assert storage.exists("a")


def test_a_bucket_that_many_make_at_once_is_made(servers: Settings) -> None:
    where = replace(servers, s3_bucket=f"b{secrets.token_hex(6)}")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: Storage(where).ensure_bucket(), range(8)))
    Storage(where).put("a", b"x", "text/plain")


def test_a_bucket_that_another_has_just_made_is_taken(servers: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers answer so to all but the first of those who saw that it was not there."""
    storage = Storage(replace(servers, s3_bucket=f"b{secrets.token_hex(6)}"))
    storage.ensure_bucket()
    looks = iter([ObjectMissing("not there yet")])

    def head_bucket(**_: object) -> None:
        raise next(looks)

    monkeypatch.setattr(storage._client, "head_bucket", head_bucket)
    storage.ensure_bucket()


@pytest.mark.parametrize(("region", "asked"), [("us-east-1", None), ("eu-central-1", "eu-central-1")])
def test_a_bucket_is_made_in_its_region(
    servers: Settings, monkeypatch: pytest.MonkeyPatch, region: str, asked: str | None
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    storage = Storage(replace(servers, s3_bucket=f"b{secrets.token_hex(6)}", local=False))
    sent: list[bytes] = []
    storage._client.meta.events.register(
        "before-send.s3.CreateBucket", lambda request, **_: sent.append(request.body or b"")
    )
    storage.ensure_bucket()
    storage.ensure_bucket()
    [body] = sent
    assert (asked is None) == (b"LocationConstraint" not in body)
    assert (asked or "").encode() in body


def _bucket_of_the_doctor(where: Settings) -> Check:
    return doctor._guarded("bucket", lambda: doctor._bucket(where))


BROKEN = {
    "a profile that is not there": ({"AWS_PROFILE": "nope"}, {}, "AWS_PROFILE: The config profile (nope)"),
    "a damaged file": ({"AWS_CONFIG_FILE": "CONFIG"}, {}, "AWS_CONFIG_FILE: Unable to parse config file"),
    "a region with a space": (
        {"AWS_DEFAULT_REGION": "eu central"},
        {},
        "AWS_REGION: Provided region_name 'eu central'",
    ),
    "an authority that is not there": (
        {"AWS_CA_BUNDLE": "/no/such.pem"},
        {},
        "AWS_CA_BUNDLE: there is no file /no/such",
    ),
    "half a key": ({"AWS_ACCESS_KEY_ID": "A"}, {}, "the S3 client cannot be set up: Partial credentials found in env"),
    "a host with an underscore": (
        {},
        {"s3_endpoint": "http://my_s3:9000"},
        "FARM_S3_ENDPOINT: Invalid endpoint: http://my",
    ),
}


def broken(case: str, where: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Settings, str]:
    variables, changes, message = BROKEN[case]
    (tmp_path / "config").write_text("[default\nregion")
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / "config") if value == "CONFIG" else value)
    keys: dict[str, Any] = {"s3_access_key": None, "s3_secret_key": None} if "AWS_ACCESS_KEY_ID" in variables else {}
    return replace(where, local=False, **keys, **changes), message


@pytest.mark.parametrize("case", BROKEN)
def test_what_boto3_cannot_start_with_is_told_in_a_line(
    case: str, servers: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, message = broken(case, servers, tmp_path, monkeypatch)
    with pytest.raises(InvalidInput) as caught:
        Storage(where)
    assert caught.value.message.startswith(message)
    assert "\n" not in caught.value.message
    assert _bucket_of_the_doctor(where).verdict == "fail"


@pytest.mark.parametrize("case", ["a profile that is not there", "a damaged file", "a region with a space"])
def test_the_local_farm_has_nothing_of_it(
    case: str, servers: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, _ = broken(case, servers, tmp_path, monkeypatch)
    Storage(replace(where, local=True)).ensure_bucket()


def test_a_bucket_that_cannot_be_named_so_is_told(servers: Settings) -> None:
    with pytest.raises(StorageError, match=r'Invalid bucket name "a b".* \(is FARM_S3_BUCKET right\?\)'):
        Storage(replace(servers, s3_bucket="a b")).ensure_bucket()


def test_a_missing_bucket_and_wrong_keys_are_said(servers: Settings) -> None:
    with pytest.raises(StorageError):
        Storage(replace(servers, s3_bucket="nowhere")).get("a")
    with pytest.raises(StorageError, match=r"access denied \(InvalidAccessKeyId\)"):
        Storage(replace(servers, s3_access_key="nobody")).get("a")
    with pytest.raises(StorageError, match=r"access denied \(SignatureDoesNotMatch\)"):
        Storage(replace(servers, s3_secret_key="wrong")).get("a")


def test_an_object_comes_in_parts_and_one_that_is_too_large_does_not(storage: Storage) -> None:
    storage.put("parts", bytes(range(10)), "application/octet-stream")
    assert list(storage.parts("parts", limit=10, size=4)) == [bytes(range(4)), bytes(range(4, 8)), bytes(range(8, 10))]
    with pytest.raises(ObjectTooLarge):
        next(storage.parts("parts", limit=9))
    with pytest.raises(ObjectMissing):
        next(storage.parts("no such object", limit=9))


def test_no_more_parts_of_a_file_are_in_memory_than_are_being_sent() -> None:
    parts = in_parts()
    assert parts.max_in_memory_upload_chunks == parts.max_concurrency == 4
