"""Where the farm is: the environment's servers, or else the local farm that `farm up` started.

The farm's own variables are declared in `farm.variables`; S3 credentials, region and authority (`AWS_CA_BUNDLE`) come
from boto3's own chain (environment, profile, instance role). Certificates are always checked. The local farm's
addresses and generated credentials are in `$FARM_HOME/farm.json`, readable by its owner only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import platformdirs

from farm import variables
from farm.errors import HomeRefused, InvalidInput, NotConfigured
from farm.host import homes, lock

DEFAULT_BUCKET = "farm"
_TLS_FILES = {
    variables.REDIS_CA: "ssl_ca_certs",
    variables.REDIS_CERT: "ssl_certfile",
    variables.REDIS_KEY: "ssl_keyfile",
}
"""Variables that name a file for TLS, and what redis-py and kombu call it in an address."""


@dataclass(frozen=True)
class Settings:
    """Addresses of one farm's Redis and bucket. Secrets are kept out of `repr`.

    `redis_url` says all that redis-py and kombu need, TLS included. `s3_bucket_from` says who named the bucket.
    """

    redis_url: str = field(repr=False)
    s3_bucket: str = DEFAULT_BUCKET
    s3_bucket_from: str = field(default="the default", compare=False)
    s3_endpoint: str | None = None
    s3_public_endpoint: str | None = None
    s3_access_key: str | None = field(default=None, repr=False)
    s3_secret_key: str | None = field(default=None, repr=False)
    local: bool = False

    @property
    def redis_address(self) -> str:
        """`host:port/db` without the password, fit for messages and logs."""
        parts = urlsplit(self.redis_url)
        return f"{parts.hostname or 'localhost'}:{parts.port or 6379}{parts.path or '/0'}"


def home(environment: Mapping[str, str] = os.environ) -> Path:
    """The local farm's folder: `$FARM_HOME`, or `render-farm` in the platform's data directory.

    Raises `HomeRefused` where there is none. Says nothing about whether it is there and fit to be used.
    """
    named = variables.HOME.of(environment)
    try:
        found = Path(named or platformdirs.user_data_dir("render-farm"))
        if named or found.is_absolute():
            return found.expanduser().resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: no such user, or links that lead in a circle
        if named:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise HomeRefused(f"the farm's home {named} cannot be found: {reason}", hint="correct FARM_HOME") from error
    raise HomeRefused("this user has no home folder, and so no place for a farm", hint="set FARM_HOME to a folder")


def state_file(farm_home: Path) -> Path:
    """The file in which a running local farm keeps its addresses and credentials."""
    return farm_home / "farm.json"


def lock_file(farm_home: Path) -> Path:
    """The file that a running local farm holds locked, with its supervisor's process id inside."""
    return farm_home / "farm.lock"


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """The farm that commands talk to: the environment's servers if named, else the local farm.

    Raises `NotConfigured` when there is neither, `InvalidInput` when a variable is malformed, and `HomeRefused` when
    others can write to the local farm's folder.
    """
    if redis_url := variables.REDIS_URL.of(environment):
        return _from_environment(redis_url, environment)
    if variables.S3_ENDPOINT.of(environment):
        raise NotConfigured("FARM_S3_ENDPOINT is set, but FARM_REDIS_URL is not", hint="set both, or neither")
    local = load_local(home(environment))
    if local is None:
        raise NotConfigured(
            "no farm found",
            hint="start one on this machine with 'farm up --detach', or set FARM_REDIS_URL and FARM_S3_ENDPOINT",
        )
    return local


def load_local(farm_home: Path) -> Settings | None:
    """The running local farm of `farm_home`, or None when none is recorded there.

    What a farm that was killed left behind is not used: whoever has its ports now would be told its passwords.
    Raises `NotConfigured` for that, and `HomeRefused` as `homes.check` does.
    """
    homes.check(farm_home)
    file = state_file(farm_home)
    if file.exists() and lock.holder(lock_file(farm_home)) is None:
        raise NotConfigured(
            f"the local farm in {farm_home} is not running: it was killed",
            hint="'farm up --detach' starts it again; its data is kept",
        )
    try:
        state: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:  # never quoted: it holds passwords
        reason = type(error).__name__
        raise NotConfigured(f"{file} cannot be read ({reason})", hint=_WRITTEN_ANEW) from None
    known: dict[str, Any] = {name: state.get(name) if isinstance(state, dict) else None for name in _LOCAL}
    if missing := [name for name, value in known.items() if not isinstance(value, str)]:
        raise NotConfigured(f"{file} does not say {', '.join(missing)}", hint=_WRITTEN_ANEW)
    return Settings(**known, s3_bucket_from="of the local farm", local=True)


_LOCAL = ("redis_url", "s3_bucket", "s3_endpoint", "s3_access_key", "s3_secret_key")
_WRITTEN_ANEW = "'farm up' writes a new one"


def _from_environment(redis_url: str, environment: Mapping[str, str]) -> Settings:
    bucket = variables.S3_BUCKET.of(environment)
    return Settings(
        redis_url=_with_tls(redis_url, environment),
        s3_bucket=bucket or DEFAULT_BUCKET,
        s3_bucket_from="from FARM_S3_BUCKET" if bucket else "the default",
        s3_endpoint=variables.S3_ENDPOINT.of(environment),
        s3_public_endpoint=variables.S3_PUBLIC_ENDPOINT.of(environment),
    )


def _with_tls(url: str, environment: Mapping[str, str]) -> str:
    """The address of Redis with what TLS needs in its query. Raises `InvalidInput`, and never quotes the address.

    Without any of it kombu would take `rediss://` for `redis://`, and send the password in the clear.
    """
    parts = urlsplit(url)
    asked = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := asked.keys() - set(_TLS_FILES.values()):
        raise InvalidInput(
            f"has {len(unknown)} options after its '?' that are not known",
            field="FARM_REDIS_URL",
            hint=f"known: {', '.join(_TLS_FILES.values())}",
        )
    named = {option: file for variable, option in _TLS_FILES.items() if (file := variable.of(environment))}
    if parts.scheme == "redis":
        if files := asked | named:
            raise InvalidInput(
                "is redis://, which sends everything in the clear, but a certificate is named",
                field="FARM_REDIS_URL",
                hint=f"use rediss://, or leave out {', '.join(sorted(files))}",
            )
        return url
    options = asked | named
    for variable, option in _TLS_FILES.items():
        if option in options and not Path(options[option]).is_file():
            raise InvalidInput(f"there is no file {options[option]}", field=variable.name)
    return parts._replace(query=urlencode({"ssl_cert_reqs": "required", **options})).geturl()
