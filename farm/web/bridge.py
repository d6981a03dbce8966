"""What blocks, on a bounded number of threads: a request that waits for Redis or the bucket holds up no other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from farm.web.problems import later

P = ParamSpec("P")
T = TypeVar("T")


async def in_time(answer: Awaitable[T], seconds: float) -> T:
    """An answer. Raises `TimeoutError` if it takes longer; then it is let come."""
    asking = asyncio.ensure_future(answer)
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.shield(asking)
    except TimeoutError:
        asking.add_done_callback(lambda late: late.cancelled() or late.exception())
        raise


class Bridge:
    """Up to `threads` calls run at once and `waiting` more wait their turn; what comes on top of that is refused."""

    def __init__(self, name: str, *, threads: int, waiting: int) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"web-{name}")
        self._most, self._now = threads + waiting, 0
        self._running, self._lock = 0, threading.Lock()

    async def __call__(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """What the function returns or raises. Raises `Refused` where too many wait."""
        if self._now >= self._most:
            raise later(503, "busy", f"too many requests wait for the {self._name}", 2)
        self._now += 1
        running = asyncio.get_running_loop().run_in_executor(
            self._pool, partial(self._run, function, *arguments, **options)
        )
        running.add_done_callback(self._ended)
        return await running

    def _run(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        with self._lock:
            self._running += 1
        try:
            return function(*arguments, **options)
        finally:
            with self._lock:
                self._running -= 1

    @property
    def is_busy(self) -> bool:
        """Whether a call has not come back: a server that does not answer can hold it for a minute."""
        return self._running > 0

    def _ended(self, _: asyncio.Future[T]) -> None:
        self._now -= 1

    def close(self) -> None:
        """Begin nothing more. What runs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
