"""The bucket: init images, batch manifests, results and traces in any S3-compatible object storage.

Nothing relies on conditional writes, which servers implement differently; the ledger's fence decides who may finish
a job, and which id of a new bucket counts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigParseError,
    InvalidRegionError,
    NoCredentialsError,
    ParamValidationError,
    ProfileNotFound,
    SSLError,
)

from farm.errors import InvalidInput, ObjectMissing, ObjectTooLarge, StorageError
from farm.settings import Settings

DEFAULT_REGION = "us-east-1"
# Of each variable of boto3: its name in files, in the environment, its value without either, and a conversion.
_NOTHING_OF_THE_USERS = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
    "region": (None, None, DEFAULT_REGION, None),
}
_PART_BYTES = 32 * 2**20
_MISSING = {"404", "NoSuchKey", "NotFound"}
_NO_BUCKET = {"NoSuchBucket"}
_DENIED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden"}
_THERE_ALREADY = {"412", "PreconditionFailed", "ConditionalRequestConflict"}
_UNKNOWN_CONDITION = {"501", "NotImplemented"}
_FULL = {"507", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"}


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
            self._client.upload_fileobj(file, self.bucket, key, Callback=sent, Config=_in_parts())

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

    @contextmanager
    def _doing(self, action: str, key: str) -> Iterator[None]:
        what = f"{action} s3://{self.bucket}/{key} at {self.endpoint}"
        try:
            yield
        except NoCredentialsError as error:
            raise StorageError(
                f"could not {what}: no credentials", hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        except ClientError as error:
            raise _named(what, error) from error
        except SSLError as error:
            raise StorageError(
                f"could not {what}: {error}", hint="name the authority that signed its certificate: AWS_CA_BUNDLE=FILE"
            ) from error
        except ParamValidationError as error:
            raise StorageError(f"could not {what}: {_line_of(error)}", hint="is FARM_S3_BUCKET right?") from error
        except BotoCoreError as error:
            raise StorageError(
                f"could not {what}: {_line_of(error)}", hint="is the server running? 'farm doctor' looks closer"
            ) from error


def _named(what: str, error: ClientError) -> StorageError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code in _NO_BUCKET:
        return ObjectMissing(f"could not {what}: there is no such bucket", hint="create it, or set FARM_S3_BUCKET")
    if code in _MISSING:
        return ObjectMissing(f"could not {what}: there is no such object")
    if code in _DENIED:
        return StorageError(
            f"could not {what}: access denied ({code})", hint="check the credentials and the bucket's policy"
        )
    if code in _FULL:
        return StorageError(f"could not {what}: the storage is full ({code})", hint="make room, then retry")
    return StorageError(f"could not {what}: {error}")


def _line_of(error: Exception) -> str:
    return " ".join(str(error).split())


def authority(settings: Settings) -> str | None:
    """The file with the authority that signed the S3 server's certificate; None for the system's.

    Raises `InvalidInput` if there is no such file.
    """
    with _blaming_the_environment():
        named: str | None = _session(settings)._session.get_config_variable("ca_bundle")
    if named is not None and not Path(named).exists():
        raise InvalidInput(f"there is no file {named}", field="AWS_CA_BUNDLE")
    return named


def _session(settings: Settings) -> Any:
    """boto3's session. The local farm's has nothing of the user's profiles, regions and files."""
    import boto3
    import botocore.session

    core = botocore.session.Session(session_vars=_NOTHING_OF_THE_USERS if settings.local else None)
    return boto3.session.Session(botocore_session=core)


@contextmanager
def _blaming_the_environment() -> Iterator[None]:
    """What boto3 raises as it sets itself up is due to a variable or a file, which the error then names."""
    try:
        yield
    except ProfileNotFound as error:
        raise InvalidInput(
            f"{_line_of(error)}", field="AWS_PROFILE", hint="'aws configure list-profiles' shows them"
        ) from error
    except ConfigParseError as error:
        raise InvalidInput(_line_of(error), field="AWS_CONFIG_FILE", hint="mend or remove that file") from error
    except InvalidRegionError as error:
        raise InvalidInput(_line_of(error), field="AWS_REGION", hint="such as eu-central-1") from error
    except BotoCoreError as error:
        raise InvalidInput(f"the S3 client cannot be set up: {_line_of(error)}") from error
    except ValueError as error:  # of an endpoint
        hint = "a host's name cannot have an underscore; use its address, or another name"
        raise InvalidInput(_line_of(error), field="FARM_S3_ENDPOINT", hint=hint) from error


def _client(settings: Settings, endpoint: str | None) -> Any:
    authority(settings)
    with _blaming_the_environment():
        return _made_client(settings, endpoint)


def _made_client(settings: Settings, endpoint: str | None) -> Any:
    from botocore.config import Config

    session = _session(settings)
    return session.client(
        "s3",
        endpoint_url=endpoint,
        region_name=session.region_name or DEFAULT_REGION,
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=settings.s3_secret_key,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if endpoint else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard", "max_attempts": 5},
            max_pool_connections=32,
            connect_timeout=5,
            read_timeout=60,
            proxies={} if is_loopback(endpoint) else None,  # this machine is never behind its own proxy
        ),
    )


def _in_parts() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=4)


def is_loopback(endpoint: str | None) -> bool:
    """Whether an address is this machine's own."""
    return endpoint is not None and urlsplit(endpoint).hostname in ("127.0.0.1", "localhost", "::1")
