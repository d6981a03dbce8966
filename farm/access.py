"""What a failure of Redis means, and whether it lets us in: said the same way by all who talk to it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import redis

from farm.errors import LedgerRefused, LedgerUnavailable
from farm.settings import Settings

_SECONDS = 5.0


def unavailable(address: str, error: Exception) -> LedgerUnavailable:
    """The error to raise for one that redis-py or kombu raised in talking to the Redis at `address`."""
    causes = list(_causes(error))
    if any(isinstance(cause, redis.AuthenticationError) for cause in causes):
        return LedgerRefused(f"Redis at {address} refuses the password", hint="check FARM_REDIS_URL")
    if any(isinstance(cause, redis.exceptions.NoPermissionError) for cause in causes):
        return LedgerRefused(f"Redis at {address} forbids this user what a farm needs: {error}", hint="see its ACL")
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
