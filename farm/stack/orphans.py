"""The supervisor's side of the guard: tells it which process groups live, and replaces it should it die."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from pathlib import Path

from farm.stack import guard

_log = logging.getLogger(__name__)
_REPLACE_AFTER = 0.5


class Guard:
    """A running guard process (`guard.py`), which also holds the home's lock."""

    def __init__(self, state: Path, lock: int) -> None:
        self._command = (sys.executable, "-I", "-S", guard.__file__, str(state))
        self._lock = lock
        self._groups: set[int] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._notes: int | None = None

    async def start(self) -> None:
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep())

    def watch(self, group: int) -> None:
        self._groups.add(group)
        self._note(f"+{group}\n")

    def forget(self, group: int) -> None:
        self._groups.discard(group)
        self._note(f"-{group}\n")

    async def close(self) -> None:
        """Let the guard end; whatever is still noted dies with it."""
        if self._keeper is not None:
            self._keeper.cancel()
        self._hang_up()
        if self._process is not None:
            await self._process.wait()

    async def _spawn(self) -> None:
        self._hang_up()
        reading, self._notes = os.pipe()
        # Noted before the guard runs: there is no moment at which it lives and knows less than we do.
        for group in self._groups:
            self._note(f"+{group}\n")
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=reading, start_new_session=True, pass_fds=(self._lock,)
            )
        finally:
            os.close(reading)

    async def _keep(self) -> None:
        while self._process is not None:
            await self._process.wait()
            _log.warning("the guard against orphans died; starting another")
            await asyncio.sleep(_REPLACE_AFTER)
            await self._spawn()

    def _note(self, line: str) -> None:
        # A guard that just died gets no note; its successor is told everything.
        if self._notes is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._notes, line.encode())

    def _hang_up(self) -> None:
        if self._notes is not None:
            os.close(self._notes)
            self._notes = None
