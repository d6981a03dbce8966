"""The variables of the environment that are the farm's own: each is declared here once, and read through here alone.

What they mean to those who run a farm is in `deploy/docs/operations.md`. (`FARM_TIMING`, of tests alone, is with the
times that it changes, in `farm/ledger/timing.py`.) A table of functions, and no model of
pydantic's: commands that need no pydantic start in half the time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import urlsplit

from farm.errors import InvalidInput

T = TypeVar("T")

_DATABASE = re.compile(r"/?|/[0-9]{1,4}")
_OTHER_REDIS = ("unix", "redis+socket", "rediss+socket", "sentinel", "redis+sentinel", "rediss+sentinel")
"""Addresses that redis-py, kombu or other tools know; one of them each."""
_AGE = re.compile(r"([0-9]{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
_FEWEST_CHARACTERS = 16


@dataclass(frozen=True)
class Variable(Generic[T]):
    """A variable's name, and `parse`, which makes its value of its text and of what to call it in an error."""

    name: str
    parse: Callable[[str, str], T]

    def of(self, environment: Mapping[str, str]) -> T | None:
        """Its value; None where it is not set, or empty. Raises `InvalidInput`, which never quotes a secret."""
        text = environment.get(self.name)
        return self.parse(text, self.name) if text else None


def age(text: str, field: str) -> float:
    """The seconds in `30d`, `12h`, `90m`, … Raises `InvalidInput` that names `field`."""
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise InvalidInput(f"{text!r:.40} is not a length of time", field=field, hint="such as 30d, 12h or 90m")
    return float(int(match[1]) * _SECONDS[match[2]])


def _text(text: str, _: str) -> str:
    return text


def _yes_or_no(text: str, field: str) -> bool:
    if text not in ("yes", "no"):
        raise InvalidInput(f"is {text!r:.40}, and neither yes nor no", field=field)
    return text == "yes"


def _gigabytes(text: str, field: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < 1e6:
        raise InvalidInput(f"is {text!r:.40}, and not a number of GB above 0", field=field, hint="such as 50")
    return number


def _secret(text: str, field: str) -> bytes:
    if len(text) < _FEWEST_CHARACTERS:
        raise InvalidInput(f"has fewer than {_FEWEST_CHARACTERS} characters", field=field, hint="openssl rand -hex 32")
    return text.encode()


_EXAMPLES = {"redis": "redis://127.0.0.1:6379/0", "http": "http://127.0.0.1:8333"}


def _redis_url(url: str, field: str) -> str:
    """Raises `InvalidInput` that never quotes what may be a part of a password."""
    scheme = url.partition(":")[0].lower()
    if scheme in _OTHER_REDIS:
        raise InvalidInput(
            f"is {scheme}://, which the farm does not speak",
            field=field,
            hint="use redis:// or rediss:// with the host and port of the primary",
        )
    _check_url(url, field, schemes=("redis", "rediss"))
    if not _DATABASE.fullmatch(urlsplit(url).path):
        raise InvalidInput(
            "names no database: after the host comes a number, such as /0, or nothing",
            field=field,
            hint=_hint(url, "redis"),
        )
    return url


def _s3_url(url: str, field: str) -> str:
    """Raises `InvalidInput` that never quotes the address, for it may hold a password."""
    _check_url(url, field, schemes=("http", "https"))
    if "@" in urlsplit(url).netloc:  # S3 has other credentials, and messages name its address
        raise InvalidInput(
            "has a user or a password in it",
            field=field,
            hint="S3 credentials are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    return url


def _hint(url: str, scheme: str) -> str:
    """What may help: signs of a password are taken for those of the address."""
    return "percent-encode special characters of a password" if "@" in url else f"such as {_EXAMPLES[scheme]}"


def _check_url(url: str, field: str, *, schemes: tuple[str, str]) -> None:
    if not _has_host(url) or urlsplit(url).scheme not in schemes:
        raise InvalidInput(
            f"is not {schemes[0]}:// or {schemes[1]}:// with HOST[:PORT]",
            field=field,
            hint=_hint(url, schemes[0]),
        )


def _has_host(url: str) -> bool:
    """Whether the part after `//` is HOST or HOST:PORT, with a port that can be one."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


HOME = Variable("FARM_HOME", _text)
MODEL = Variable("FARM_MODEL", _text)
REDIS_URL = Variable("FARM_REDIS_URL", _redis_url)
REDIS_CA = Variable("FARM_REDIS_CA", _text)
REDIS_CERT = Variable("FARM_REDIS_CERT", _text)
REDIS_KEY = Variable("FARM_REDIS_KEY", _text)
S3_ENDPOINT = Variable("FARM_S3_ENDPOINT", _s3_url)
S3_BUCKET = Variable("FARM_S3_BUCKET", _text)
S3_PUBLIC_ENDPOINT = Variable("FARM_S3_PUBLIC_ENDPOINT", _s3_url)
WEB_MODEL_GB = Variable("FARM_WEB_MODEL_GB", _gigabytes)
# Of workers alone
RETENTION = Variable("FARM_RETENTION", age)
RETENTION_OBJECTS = Variable("FARM_RETENTION_OBJECTS", _yes_or_no)
KERNELS_KEY = Variable("FARM_KERNELS_KEY", _secret)
MODEL_CACHE_GB = Variable("FARM_MODEL_CACHE_GB", _gigabytes)
CLIP = Variable("FARM_CLIP", _text)

ALL: tuple[Variable[str] | Variable[float] | Variable[bool] | Variable[bytes], ...] = (
    HOME,
    MODEL,
    REDIS_URL,
    REDIS_CA,
    REDIS_CERT,
    REDIS_KEY,
    S3_ENDPOINT,
    S3_BUCKET,
    S3_PUBLIC_ENDPOINT,
    WEB_MODEL_GB,
    RETENTION,
    RETENTION_OBJECTS,
    KERNELS_KEY,
    MODEL_CACHE_GB,
    CLIP,
)
