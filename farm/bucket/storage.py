"""The bucket: init images, batch manifests, results and traces in any S3-compatible object storage.

Nothing relies on conditional writes, which servers implement differently; the ledger's fence decides who may finish
a job, and which id of a new bucket counts.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from botocore.exceptions import ClientError

from farm.bucket.connection import DEFAULT_REGION, in_parts
from farm.bucket.connection import client as _client
from farm.bucket.connection import is_loopback as is_loopback
from farm.bucket.s3_errors import naming
from farm.errors import ObjectMissing, ObjectTooLarge, StorageError
from farm.settings import Settings

_THERE_ALREADY = {"412", "PreconditionFailed", "ConditionalRequestConflict"}
_UNKNOWN_CONDITION = {"501", "NotImplemented"}


@dataclass(frozen=True)
class StoredObject:
    """An object's key and size in bytes; when it was last written, and a `tag` that changes with what is in it."""

    key: str
    size: int
    modified: datetime | None = field(default=None, compare=False)
    tag: str = field(default="", compare=False)


class Writable(Protocol):
    """Something that takes bytes."""

    def write(self, data: bytes, /) -> object: ...


class Storage:
    """One farm's bucket. Methods raise `StorageError`, and `ObjectMissing` where there is no such object.

    Making one raises `InvalidInput` where boto3's own variables and files make no sense.
    """

    def __init__(self, settings: Settings) -> None:
        self.bucket = settings.s3_bucket
        self.endpoint = settings.s3_endpoint or "AWS S3"
        self.described = f"the bucket '{self.bucket}' ({settings.s3_bucket_from}) at {self.endpoint}"
        self._settings = settings
        self._client = _client(settings, settings.s3_endpoint)

    def put(self, key: str, data: bytes, content_type: str) -> None:
        with self._doing("put", key):
            self._client.put_object(Bucket=self.bucket, Key=key, Body=data, ContentType=content_type)

    def upload(self, key: str, path: Path, *, sent: Callable[[int], None] = lambda _: None) -> None:
        """Put a file of any size, in parts; `sent` hears of every so many bytes, from several threads.

        The object is there when all of it has come, and not before. Raises `OSError` if the file cannot be read.
        """
        with self._doing("put", key), path.open("rb") as file:
            self._client.upload_fileobj(file, self.bucket, key, Callback=sent, Config=in_parts())

    def put_new(self, key: str, data: bytes, content_type: str) -> None:
        """Put an object unless there is one; a server that knows no such condition replaces it."""
        asked = {"Bucket": self.bucket, "Key": key, "Body": data, "ContentType": content_type}
        with self._doing("put", key):
            try:
                self._client.put_object(**asked, IfNoneMatch="*")
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code")
                if code in _UNKNOWN_CONDITION:
                    self._client.put_object(**asked)
                elif code not in _THERE_ALREADY:
                    raise

    def get(self, key: str, *, limit: int | None = None) -> bytes:
        """The object's bytes. With `limit`, an object of more bytes is refused unread: `ObjectTooLarge`."""
        with self._doing("get", key):
            data: bytes = self._body(key, limit).read()
            return data

    def download(self, key: str, path: Path, *, limit: int | None = None) -> None:
        """Write the object to `path`, in parts and so of any size up to `limit`; more is refused: `ObjectTooLarge`.

        Raises `OSError` if it cannot be written.
        """
        with path.open("wb") as file:
            self.copy(key, file, limit=limit)

    def copy(self, key: str, file: Writable, *, limit: int | None = None) -> None:
        """The same into an open file."""
        with self._doing("get", key):
            shutil.copyfileobj(self._body(key, limit), file, 2**20)

    def parts(self, key: str, *, limit: int, size: int = 2**18) -> Iterator[bytes]:
        """The object's bytes, up to `size` at a time. One of more bytes than `limit` is refused: `ObjectTooLarge`."""
        with self._doing("get", key):
            body = self._body(key, limit)
            try:
                while part := body.read(size):
                    yield part
            finally:
                body.close()

    def _body(self, key: str, limit: int | None) -> Any:
        answer = self._client.get_object(Bucket=self.bucket, Key=key)
        if limit is not None and answer["ContentLength"] > limit:
            answer["Body"].close()
            raise ObjectTooLarge(f"{key} has {answer['ContentLength']:,} bytes, more than {limit:,}")
        return answer["Body"]

    def exists(self, key: str) -> bool:
        try:
            with self._doing("look for", key):
                self._client.head_object(Bucket=self.bucket, Key=key)
        except ObjectMissing:
            return False
        return True

    def list(self, prefix: str, *, deep: bool = True) -> Iterator[StoredObject]:
        """Every object under a prefix, in key order; unless `deep`, only those without a further `/` in their key."""
        asked = {"Bucket": self.bucket, "Prefix": prefix, **({} if deep else {"Delimiter": "/"})}
        with self._doing("list", prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(**asked):
                for entry in page.get("Contents", ()):
                    yield StoredObject(entry["Key"], entry["Size"], entry.get("LastModified"), entry.get("ETag", ""))

    def delete(self, key: str) -> None:
        with self._doing("delete", key):
            self._client.delete_object(Bucket=self.bucket, Key=key)

    def presign(self, key: str, *, seconds: int = 3600) -> str:
        """A link that anybody may open for `seconds` to read the object."""
        with self._doing("presign", key):
            link: str = self._public_client.generate_presigned_url(
                "get_object", Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=seconds
            )
            return link

    @cached_property
    def _public_client(self) -> Any:
        public = self._settings.s3_public_endpoint
        return _client(self._settings, public) if public else self._client

    def find_bucket(self) -> None:
        """Raises `ObjectMissing` if the bucket is not there. Some servers would make it at the first put."""
        try:
            with self._doing("look for", ""):
                self._client.head_bucket(Bucket=self.bucket)
        except ObjectMissing as error:
            raise ObjectMissing(
                f"there is no bucket '{self.bucket}' at {self.endpoint}", hint="create it, or set FARM_S3_BUCKET"
            ) from error

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there."""
        try:
            self.find_bucket()
        except ObjectMissing:
            region = self._client.meta.region_name
            where = {} if region == DEFAULT_REGION else {"LocationConstraint": region}
            with self._doing("create", ""), contextlib.suppress(self._client.exceptions.BucketAlreadyOwnedByYou):
                self._client.create_bucket(
                    Bucket=self.bucket, **({"CreateBucketConfiguration": where} if where else {})
                )

    def clock_offset(self) -> float | None:
        """By how many seconds the server's clock is ahead of this machine's, to about a second; None if it does not
        say. It refuses signatures that are 15 minutes off."""
        try:
            with self._doing("look for", ""):
                answer = self._client.head_bucket(Bucket=self.bucket)
        except StorageError as error:
            answer = getattr(error.__cause__, "response", {})
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        try:
            return parsedate_to_datetime(date).timestamp() - time.time()
        except (TypeError, ValueError):
            return None

    def _doing(self, action: str, key: str) -> AbstractContextManager[None]:
        return naming(f"{action} s3://{self.bucket}/{key} at {self.endpoint}")
