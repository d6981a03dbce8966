"""The connection to an S3 server: boto3's session and client as the farm's settings want them."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from farm.bucket.s3_errors import blaming_the_environment
from farm.errors import InvalidInput
from farm.host import patience
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
_PARTS_AT_ONCE = 4


def authority(settings: Settings) -> str | None:
    """The file with the authority that signed the S3 server's certificate; None for the system's.

    Raises `InvalidInput` if there is no such file.
    """
    with blaming_the_environment():
        return _authority(_session(settings))


def _authority(session: Any) -> str | None:
    named: str | None = session._session.get_config_variable("ca_bundle")
    if named is not None and not Path(named).exists():
        raise InvalidInput(f"there is no file {named}", field="AWS_CA_BUNDLE")
    return named


def _session(settings: Settings) -> Any:
    """boto3's session. The local farm's has nothing of the user's profiles, regions and files."""
    import boto3
    import botocore.session

    core = botocore.session.Session(session_vars=_NOTHING_OF_THE_USERS if settings.local else None)
    made = boto3.session.Session(botocore_session=core)
    core.register_component("data_loader", _descriptions(core.get_config_variable("data_path")))
    return made


@cache
def _descriptions(folders: str | None) -> Any:
    """What botocore knows of S3: large files, and so read once for all clients of a process."""
    from botocore.loaders import create_loader

    return create_loader(folders)


def client(settings: Settings, endpoint: str | None) -> Any:
    """boto3's client of S3 at this endpoint; None for AWS. Raises `InvalidInput` naming the variable at fault."""
    with blaming_the_environment():
        session = _session(settings)
        _authority(session)
        return _made(session, settings, endpoint)


def _made(session: Any, settings: Settings, endpoint: str | None) -> Any:
    from botocore.config import Config

    made = session.client(
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
    server = f"S3 at {endpoint or 'AWS'}"
    made.meta.events.register("before-call.s3", lambda **_: patience.asked(server))
    for end in ("after-call.s3", "after-call-error.s3"):
        made.meta.events.register(end, lambda **_: patience.answered())
    return made


def in_parts() -> Any:
    """How boto3 sends a file: in parts, a few at once, and no more of them in memory."""
    from boto3.s3.transfer import TransferConfig

    made = TransferConfig(
        multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE
    )
    made.max_in_memory_upload_chunks = _PARTS_AT_ONCE  # ten by itself
    return made


def is_loopback(endpoint: str | None) -> bool:
    """Whether an address is this machine's own."""
    return endpoint is not None and urlsplit(endpoint).hostname in ("127.0.0.1", "localhost", "::1")
