"""A child process that is kept running: its log, its process group, its restarts and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from farm.errors import StackError
from farm.stack import logs
from farm.stack.orphans import Guard

_log = logging.getLogger(__name__)

# The first restart comes at once, for a server's absence is felt; one that keeps dying young is retried ever later.
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 30.0
_YOUNG = 10.0


@dataclass(frozen=True)
class Program:
    """What to run. `grace` is how long, in seconds, it may take to end after SIGTERM.

    An exit status in `hopeless` says that another try would end the same way.
    """

    name: str
    command: tuple[str, ...]
    directory: Path
    log: Path
    environment: Mapping[str, str] = field(repr=False)
    grace: float
    ports: tuple[int, ...] = ()
    hopeless: frozenset[int] = frozenset()
    umask: int = -1
    """The umask for the files and sockets that it makes; -1: the same as ours."""
    refuse: Callable[[], None] | None = None
    """Called before each start. Raises `StackError` if it must not be started now."""


class Child:
    """One program, restarted whenever it ends, until it is stopped. `changed` is called when `pid` changes."""

    def __init__(self, program: Program, guard: Guard, changed: Callable[[], None]) -> None:
        self.program = program
        self.restarts = 0
        self.last_exit: int | None = None
        self.given_up = False
        self.log_began: int | None = None
        """How much an earlier farm had left in the log when this one first started the process."""
        self._guard = guard
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the process. Raises `StackError` when the operating system or the program's `refuse` does."""
        if self.program.refuse is not None:
            self.program.refuse()
        self.program.log.touch(mode=0o600)
        logs.trim(self.program.log)
        if self.log_began is None:
            self.log_began = logs.size(self.program.log)
        try:
            with self.program.log.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *self.program.command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.program.directory,
                    env=self.program.environment,
                    # Its own group, so that it can be ended with all its children, and a Ctrl-C reaches us alone.
                    start_new_session=True,
                    umask=self.program.umask,
                )
        except OSError as error:
            raise StackError(f"{self.program.name} cannot be started: {error}") from error
        self._guard.watch(process.pid)
        self._process = process
        self._changed()

    async def ended(self) -> int:
        """Wait for the running process to end; its exit status, negative for a signal."""
        process = self._process
        if process is None:
            raise RuntimeError(f"{self.program.name} is not running")
        status = await process.wait()
        # The group of a dead leader may hold stragglers; nothing of it may outlive the next start.
        _signal_group(process.pid, signal.SIGKILL)
        self._guard.forget(process.pid)
        self._process = None
        self.last_exit = status
        return status

    def keep(self) -> None:
        """From now on restart the process whenever it ends."""
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """End the process: SIGTERM, and SIGKILL after the program's grace."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self._process is None:
            return
        _signal_group(self._process.pid, signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), self.program.grace)
        except TimeoutError:
            _log.warning("%s did not end within %g s and is being killed", self.program.name, self.program.grace)
            self.kill()
        await self.ended()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            _signal_group(self._process.pid, signal.SIGKILL)

    async def _keep(self) -> None:
        name, delay = self.program.name, _FIRST_DELAY
        while True:
            since = time.monotonic()
            status = await self.ended()
            self._changed()
            if status in self.program.hopeless:
                self.given_up = True
                _log.error("%s cannot run (exit status %d), see %s", name, status, self.program.log)
                self._changed()
                return
            delay = min(_LONGEST_DELAY, 2 * delay) if time.monotonic() - since < _YOUNG else _FIRST_DELAY
            _log.warning("%s ended (%s); starting it again in %.1f s", name, how_ended(status), delay)
            await asyncio.sleep(delay)
            await self._start_again()

    async def _start_again(self) -> None:
        self.restarts += 1
        while True:
            try:
                return await self.start()
            except (StackError, OSError) as error:
                # A full process table or disk passes; the farm must not end because of it.
                _log.error("%s", error)
                await asyncio.sleep(_LONGEST_DELAY)


def how_ended(status: int) -> str:
    """An exit status in words."""
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"


def _signal_group(group: int, number: signal.Signals) -> None:
    # macOS answers EPERM where Linux answers ESRCH: for a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
