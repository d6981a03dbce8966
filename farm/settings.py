"""Where the farm is: the environment's servers, or else the local farm that `farm up` started.

| variable | means |
| --- | --- |
| `FARM_HOME` | the folder of the local farm (default: the platform's data directory) |
| `FARM_REDIS_URL` | `redis://[:password@]host:port/db`, or `rediss://` for TLS |
| `FARM_REDIS_CA` | the authority that signed Redis' certificate, a PEM file (default: the system's) |
| `FARM_REDIS_CERT`, `FARM_REDIS_KEY` | this machine's own certificate and its key, where Redis asks for one |
| `FARM_S3_ENDPOINT` | the S3 server's URL; leave unset for AWS itself |
| `FARM_S3_BUCKET` | the bucket (default `farm`) |
| `FARM_S3_PUBLIC_ENDPOINT` | the S3 server's URL as seen by those who open presigned links |

S3 credentials, region and authority (`AWS_CA_BUNDLE`) come from boto3's own chain (environment, profile, instance
role). Certificates are always checked. The local farm's addresses and generated credentials are in
`$FARM_HOME/farm.json`, readable by its owner only.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import platformdirs

from farm.errors import HomeRefused, InvalidInput, NotConfigured
from farm.host import homes, lock

DEFAULT_BUCKET = "farm"
_DATABASE = re.compile(r"/?|/[0-9]{1,4}")
_OTHER_REDIS = ("unix", "redis+socket", "rediss+socket", "sentinel", "redis+sentinel", "rediss+sentinel")
"""Addresses that redis-py, kombu or other tools know; one of them each."""
_TLS_FILES = {"FARM_REDIS_CA": "ssl_ca_certs", "FARM_REDIS_CERT": "ssl_certfile", "FARM_REDIS_KEY": "ssl_keyfile"}
"""Variables that name a file for TLS, and how redis-py and kombu call it in an address."""


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
    named = environment.get("FARM_HOME")
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
    if environment.get("FARM_REDIS_URL"):
        return _from_environment(environment)
    if environment.get("FARM_S3_ENDPOINT"):
        raise NotConfigured("FARM_S3_ENDPOINT is set, FARM_REDIS_URL is not", hint="set both, or neither")
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
            f"the local farm in {farm_home} is not running; its last one was killed",
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
        raise NotConfigured(f"{file} has no text for {', '.join(missing)}", hint=_WRITTEN_ANEW)
    return Settings(**known, s3_bucket_from="of the local farm", local=True)


_LOCAL = ("redis_url", "s3_bucket", "s3_endpoint", "s3_access_key", "s3_secret_key")
_WRITTEN_ANEW = "'farm up' writes it anew"


def _from_environment(environment: Mapping[str, str]) -> Settings:
    endpoint = environment.get("FARM_S3_ENDPOINT") or None
    public_endpoint = environment.get("FARM_S3_PUBLIC_ENDPOINT") or None
    _check_redis_url(environment["FARM_REDIS_URL"])
    for name, url in (("FARM_S3_ENDPOINT", endpoint), ("FARM_S3_PUBLIC_ENDPOINT", public_endpoint)):
        if url:
            _check_url(url, name, schemes=("http", "https"))
    return Settings(
        redis_url=_with_tls(environment["FARM_REDIS_URL"], environment),
        s3_bucket=environment.get("FARM_S3_BUCKET") or DEFAULT_BUCKET,
        s3_bucket_from="from FARM_S3_BUCKET" if environment.get("FARM_S3_BUCKET") else "the default",
        s3_endpoint=endpoint,
        s3_public_endpoint=public_endpoint,
    )


def _with_tls(url: str, environment: Mapping[str, str]) -> str:
    """The address of Redis with what TLS needs in its query. Raises `InvalidInput`, and never quotes the address.

    Without any of it kombu would take `rediss://` for `redis://`, and send the password in clear.
    """
    parts = urlsplit(url)
    asked = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := asked.keys() - set(_TLS_FILES.values()):
        raise InvalidInput(
            f"has {len(unknown)} options after its '?' that are not known",
            field="FARM_REDIS_URL",
            hint=f"known: {', '.join(_TLS_FILES.values())}",
        )
    named = {option: environment[variable] for variable, option in _TLS_FILES.items() if environment.get(variable)}
    if parts.scheme == "redis":
        if files := asked | named:
            raise InvalidInput(
                "is redis://, which sends everything in clear, and a certificate is named",
                field="FARM_REDIS_URL",
                hint=f"use rediss://, or leave out {', '.join(sorted(files))}",
            )
        return url
    options = asked | named
    for variable, option in _TLS_FILES.items():
        if option in options and not Path(options[option]).is_file():
            raise InvalidInput(f"there is no file {options[option]}", field=variable)
    return parts._replace(query=urlencode({"ssl_cert_reqs": "required", **options})).geturl()


def _check_redis_url(url: str) -> None:
    """Raises `InvalidInput` that never quotes what may be a part of a password."""
    scheme = url.partition(":")[0].lower()
    if scheme in _OTHER_REDIS:
        raise InvalidInput(
            f"is {scheme}://, which the farm does not speak",
            field="FARM_REDIS_URL",
            hint="use redis:// or rediss:// with the host and port of the primary",
        )
    _check_url(url, "FARM_REDIS_URL", schemes=("redis", "rediss"))
    if not _DATABASE.fullmatch(urlsplit(url).path):
        raise InvalidInput(
            "names no database: after the host comes a number, such as /0, or nothing",
            field="FARM_REDIS_URL",
            hint="percent-encode special characters of a password",
        )


def _check_url(url: str, variable: str, *, schemes: tuple[str, str]) -> None:
    """Raises `InvalidInput` that never quotes the address, for it may hold a password."""
    if not _has_host(url) or urlsplit(url).scheme not in schemes:
        raise InvalidInput(
            f"is not {schemes[0]}:// or {schemes[1]}:// with HOST[:PORT]",
            field=variable,
            hint="percent-encode special characters of a password",
        )
    if "@" in urlsplit(url).netloc and "http" in schemes:  # S3 has other credentials, and messages name its address
        raise InvalidInput(
            "has a user or a password in it",
            field=variable,
            hint="S3 credentials are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )


def _has_host(url: str) -> bool:
    """Whether the part after `//` is HOST or HOST:PORT, with a port that can be one."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
