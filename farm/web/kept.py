"""What takes a moment to find out, and is wanted by many pages: found out once for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """An answer that is kept for so many `seconds`, and asked for by one at a time."""

    def __init__(self, ask: Callable[[], Awaitable[T]], *, seconds: float) -> None:
        self._ask, self._seconds = ask, seconds
        self._answer: tuple[float, T] | None = None
        self._asking: asyncio.Task[T] | None = None

    async def __call__(self, *, within: float | None = None) -> T | None:
        """The answer. With `within` no longer than that is waited for one that is not too old: an old one is given
        then, or None if there is none. Raises what asking does; with `within`, only if there is no answer at all."""
        if self._answer and time.monotonic() - self._answer[0] < self._seconds:
            return self._answer[1]
        if self._asking is None:
            self._asking = asyncio.create_task(self._find())
            self._asking.add_done_callback(self._found)
        asking = self._asking
        if within is None:
            return await asyncio.shield(asking)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                return await asyncio.shield(asking)
        return self._answer[1] if self._answer else None

    async def _find(self) -> T:
        answer = await self._ask()
        self._answer = time.monotonic(), answer
        return answer

    def _found(self, task: asyncio.Task[T]) -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # whoever waits is told; if nobody does, it is asked again
