"""What blocks, on a bounded number of threads: a request that waits for Redis or the bucket holds up no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from farm.web.problems import later

P = ParamSpec("P")
T = TypeVar("T")


class Bridge:
    """Up to `threads` calls run at once and `waiting` more wait their turn; what comes on top of that is refused."""

    def __init__(self, name: str, *, threads: int, waiting: int) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"web-{name}")
        self._most, self._now = threads + waiting, 0

    async def __call__(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """What the function returns or raises. Raises `Refused` where too many wait."""
        if self._now >= self._most:
            raise later(503, "busy", f"too many requests wait for the {self._name}", 2)
        self._now += 1
        running = asyncio.get_running_loop().run_in_executor(self._pool, partial(function, *arguments, **options))
        running.add_done_callback(self._ended)
        return await running

    def _ended(self, _: asyncio.Future[T]) -> None:
        self._now -= 1

    def close(self) -> None:
        """Begin nothing more. What runs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
