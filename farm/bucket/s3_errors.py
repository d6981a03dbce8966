"""What boto3 raises, in the farm's words: what could not be done and why, or which variable makes no sense."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

from farm.errors import InvalidInput, ObjectMissing, StorageError

_MISSING = {"404", "NoSuchKey", "NotFound"}
_NO_BUCKET = {"NoSuchBucket"}
_DENIED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden"}
_FULL = {"507", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"}


@contextmanager
def naming(what: str) -> Iterator[None]:
    """What boto3 raises as it does this becomes a `StorageError` that says so; `ObjectMissing` if nothing is there."""
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


@contextmanager
def blaming_the_environment() -> Iterator[None]:
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
