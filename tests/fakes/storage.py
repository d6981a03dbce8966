"""A bucket in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from farm.bucket.storage import Storage, StoredObject, Writable
from farm.errors import ObjectMissing, ObjectTooLarge, StorageError
from tests.fakes.outages import Outage


class FakeStorage(Storage):
    """Objects by key in `objects`. It is away while its `outage` says so."""

    def __init__(self, bucket: str = "farm") -> None:
        self.bucket = bucket
        self.endpoint = "http://127.0.0.1:0"
        self.described = f"the bucket '{bucket}' in memory"
        self.objects: dict[str, bytes] = {}
        self.outage = Outage(StorageError)
        self.put_order: list[str] = []
        self.modified: dict[str, datetime] = {}

    def put(self, key: str, data: bytes, content_type: str) -> None:
        with self.outage.passed("put"):
            self.objects[key] = bytes(data)
            self.put_order.append(key)
            self.modified[key] = datetime.now(UTC)

    def put_new(self, key: str, data: bytes, content_type: str) -> None:
        with self.outage.passed("put"):
            self.objects.setdefault(key, bytes(data))

    def get(self, key: str, *, limit: int | None = None) -> bytes:
        with self.outage.passed("get"):
            if key not in self.objects:
                raise ObjectMissing(
                    f"could not get s3://{self.bucket}/{key} at {self.endpoint}: there is no such object"
                )
            data = self.objects[key]
            if limit is not None and len(data) > limit:
                raise ObjectTooLarge(f"{key} has {len(data):,} bytes, more than {limit:,}")
            return data

    def upload(self, key: str, path: Path, *, sent: Callable[[int], None] = lambda _: None) -> None:
        data = path.read_bytes()
        self.put(key, data, "application/octet-stream")
        sent(len(data))

    def copy(self, key: str, file: Writable, *, limit: int | None = None) -> None:
        file.write(self.get(key, limit=limit))

    def exists(self, key: str) -> bool:
        with self.outage.passed("look for"):
            return key in self.objects

    def list(self, prefix: str, *, deep: bool = True) -> Iterator[StoredObject]:
        with self.outage.passed("list"):
            found = [
                StoredObject(key, len(data), self.modified.get(key), hashlib.md5(data).hexdigest())
                for key, data in self.objects.items()
                if key.startswith(prefix) and (deep or "/" not in key.removeprefix(prefix))
            ]
        return iter(sorted(found, key=lambda one: one.key))

    def delete(self, key: str) -> None:
        with self.outage.passed("delete"):
            self.objects.pop(key, None)

    def find_bucket(self) -> None:
        with self.outage.passed("look for"):
            pass

    def ensure_bucket(self) -> None:
        self.find_bucket()
