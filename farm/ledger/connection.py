"""The ledger's connection to Redis, and the keys that it keeps there.

{prefix}:job:<id>          hash: the job's record
{prefix}:jobs              sorted set: every job by submission time
{prefix}:batch:<id>        sorted set: a batch's jobs by index;  {prefix}:batches: batches by time
{prefix}:state:<state>     sorted set: jobs by the time they entered the state
{prefix}:waiting:<model>   sorted set: queued jobs by the time their message was last published
{prefix}:turn:<model>      sorted set: queued jobs by whose turn it is: priority, then submission
{prefix}:leases            sorted set: running jobs by the time their lease lapses
{prefix}:unpromoted        sorted set: done jobs by their end, until those who know only the bucket find their result
{prefix}:quarantine        hash: jobs whose record cannot be read, and why; `farm recover` rebuilds them
{prefix}:grant:<token>     the job that a claim was granted in place of another, lapsing by itself
{prefix}:events            stream: what `farm watch` follows;  {prefix}:control: what workers are told
{prefix}:reaped            hash: when a reaper last came by, and from when on reaping is fair
{prefix}:bucket            hash: the name and the id of the bucket that this ledger belongs to (`farm/client/tie.py`)
{prefix}:worker:<id>       a live worker's description, lapsing by itself
{prefix}:drained           hash: workers that take no more jobs, by name: how, since and until when
{prefix}:once:<name>       what was first said under a name, such as a submission's idempotency key; lapsing by itself
{prefix}:death:<worker>    how a worker's process ended, as was found afterwards, lapsing after a month
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from farm.host.patience import asking
from farm.ledger.redis_errors import unavailable
from farm.settings import Settings

PREFIX = "farm"
CHUNK = 500
"""This many records are read or written at a time, for Redis does nothing else meanwhile."""


ANSWERS_WITHIN = 30.0
"""Seconds that an answer is waited for, each of a few times."""


def connect(settings: Settings, *, answers_within: float = ANSWERS_WITHIN) -> Any:
    """A client of the farm's Redis, whose answers are text. Connects when it is first used.

    Who waits for shorter than usual also tries less often. The type: redis' own cannot tell decoded answers from bytes.
    """
    return redis.Redis.from_url(
        settings.redis_url,
        decode_responses=True,
        socket_timeout=answers_within,
        socket_connect_timeout=5,
        socket_keepalive=True,
        health_check_interval=25,
        encoding_errors="replace",  # one record of stray bytes must not hide the others
        # Its default sleeps for up to ten seconds between two tries: too long for a lease that is to be renewed.
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.1), retries=3 if answers_within >= ANSWERS_WITHIN else 1),
    )


class Connection:
    """One Redis, as a ledger talks to it. Methods raise `LedgerUnavailable` when it cannot be used."""

    def __init__(self, settings: Settings, *, prefix: str = PREFIX, answers_within: float = ANSWERS_WITHIN) -> None:
        self.address = settings.redis_address
        self.redis = connect(settings, answers_within=answers_within)
        self._prefix = prefix
        self._script = self.redis.register_script(_program())

    def close(self) -> None:
        self.redis.close()

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))

    def _run(self, operation: str, *arguments: str | int) -> Any:
        with self._talking():
            return self._script(keys=[self._prefix], args=[operation, *arguments])

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            with asking(f"Redis at {self.address}"):
                yield
        except redis.RedisError as error:
            raise unavailable(self.address, error) from error


def _program() -> str:
    """The ledger's operations as one program, from its parts in the order of their names."""
    parts = (part for part in resources.files("farm.ledger").joinpath("lua").iterdir() if part.name.endswith(".lua"))
    return "".join(part.read_text(encoding="utf-8") for part in sorted(parts, key=lambda part: part.name))


def in_groups(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items, at most `size` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def milliseconds(seconds: float) -> int:
    """Seconds as Redis counts them."""
    return round(seconds * 1000)
