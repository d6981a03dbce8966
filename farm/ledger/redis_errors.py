"""What a failure of Redis means, and whether it lets us in: put the same way wherever it is used."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import redis

from farm.errors import LedgerRefused, LedgerUnavailable
from farm.settings import Settings

_SECONDS = 5.0
KEYS = "~farm*"
"""The keys of a farm, as `ACL SETUSER` names them."""
# Redis 7.2 and later say who lacks which command, even in a script; before, of a script only that it may not.
_NO_COMMAND = re.compile(r"(?:User (\S+)|this user) has no permissions to run the '([^']+)' command")
_NO_KEY = re.compile(r"permissions to access (a key|one of the keys)|can't access at least one of the keys")
_IN_SCRIPT = re.compile(r"ACL failure in script|The user executing the script can't")


@dataclass(frozen=True)
class Lack:
    """A right that Redis' access control denies: as `ACL SETUSER` grants it, if Redis says which; and to whom."""

    right: str | None
    user: str = "USER"

    @property
    def mend(self) -> str:
        rights = "deploy/docs/operations.md has the rights that a farm needs"
        return f"grant it: ACL SETUSER {self.user} {self.right}; {rights}" if self.right else rights


def lack(error: BaseException) -> Lack | None:
    """What the user who got this error of redis-py or kombu lacks, or None if it is about something else."""
    return next((found for cause in _causes(error) if (found := _lack(cause))), None)


def _lack(error: BaseException) -> Lack | None:
    said = str(error)
    denied = isinstance(error, redis.exceptions.NoPermissionError)
    if not denied and not (isinstance(error, redis.ResponseError) and _IN_SCRIPT.search(said)):
        return None
    if told := _NO_COMMAND.search(said):
        return Lack(f"+{told[2]}", told[1] or "USER")
    return Lack(KEYS if _NO_KEY.search(said) else None)


def unavailable(address: str, error: Exception) -> LedgerUnavailable:
    """The error to raise for one that redis-py or kombu raised in talking to the Redis at `address`."""
    causes = list(_causes(error))
    if any(isinstance(cause, redis.AuthenticationError) for cause in causes):
        return LedgerRefused(f"Redis at {address} refuses the password", hint="check FARM_REDIS_URL")
    if denied := lack(error):
        what = denied.right or f"what a farm needs ({error})"
        return LedgerRefused(f"Redis at {address} denies this user {what}", hint=denied.mend)
    if untrusted := next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None):
        return LedgerRefused(
            f"the certificate of Redis at {address} is not trusted: {untrusted.verify_message}",
            hint="name the authority that signed it: FARM_REDIS_CA=FILE",
        )
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return LedgerRefused(
            f"Redis at {address} does not speak TLS with us: {error}",
            hint="is it redis:// instead, or does it want FARM_REDIS_CERT and FARM_REDIS_KEY?",
        )
    return LedgerUnavailable(
        f"Redis at {address} cannot be used: {error}", hint="is it running? 'farm doctor' looks closer"
    )


def check(where: Settings) -> None:
    """Raises `LedgerRefused` if Redis does not let us in. One that does not answer is not said to refuse."""
    client = redis.Redis.from_url(where.redis_url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS, retry=None)
    try:
        client.ping()
    except redis.RedisError as error:
        meaning = unavailable(where.redis_address, error)
        if isinstance(meaning, LedgerRefused):
            raise meaning from error
    finally:
        client.close()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
