"""The supervisor of a local farm: starts Redis, the S3 server, the workers and the site, keeps them running, ends them.

Runs in the foreground for `farm up`, or by itself (`python -m farm.stack.supervisor`) for `farm up --detach`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from farm.errors import FarmError
from farm.host.lock import HomeLock
from farm.host.loglines import log_to_stderr
from farm.settings import Settings
from farm.stack import credentials, logs, readiness, servers, state
from farm.stack.certificates import AUTHORITY
from farm.stack.layout import Layout
from farm.stack.orphans import Guard
from farm.stack.plan import FarmPlan, worker_programs
from farm.stack.process import Child, Program
from farm.stack.site import site_program

_log = logging.getLogger(__name__)

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Two farms that start at the same moment may have drawn the same port.
_STARTS = 3
_TRIM_EVERY = 60.0


class Supervisor:
    """One local farm, from `run` until a signal. `ready` is called once with its settings, and then `open_door` with
    the address of its site, if it has one."""

    def __init__(
        self, plan: FarmPlan, ready: Callable[[Settings], None], open_door: Callable[[str], None] = lambda _: None
    ) -> None:
        self._plan = plan
        self._ready = ready
        self._open_door = open_door
        self._layout = Layout(plan.home)
        self._children: list[Child] = []
        self._settings: Settings | None = None
        self._started = datetime.now(UTC)
        self._stopping = False

    async def run(self) -> None:
        """Run the farm until SIGINT, SIGTERM or SIGHUP; a second signal ends it at once.

        Raises `StackError` when the home is in use or a server does not start.
        """
        self._layout.create()
        lock = HomeLock(self._layout.lock)
        guard = Guard(self._layout.state, lock.descriptor)
        try:
            self._layout.state.unlink(missing_ok=True)
            await guard.start()
            await self._run_until_signal(guard)
        finally:
            await self._stop_children()
            await guard.close()
            lock.release()

    async def _run_until_signal(self, guard: Guard) -> None:
        running = asyncio.create_task(self._start_and_watch(guard))
        for number in _STOPPING:
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup: the terminal's end is not ours
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, running)
        try:
            await running
        except asyncio.CancelledError:
            _log.info("stopping")

    def _on_signal(self, running: asyncio.Task[None]) -> None:
        if self._stopping:
            for child in self._children:
                child.kill()
        self._stopping = True
        running.cancel()

    async def _start_and_watch(self, guard: Guard) -> None:
        settings = await self._start_servers(guard)
        self._settings = settings
        self._started = datetime.now(UTC)
        self._write_state()
        self._layout.door.unlink(missing_ok=True)
        for program in (*worker_programs(self._plan), *([site_program(self._plan)] if self._plan.web else [])):
            await self._child(program, guard).start()
        for child in self._children:
            child.keep()
        self._ready(settings)
        if self._plan.web and (address := await readiness.site_ready(self._children[-1], self._plan.home)):
            self._open_door(address)
        while True:
            await asyncio.sleep(_TRIM_EVERY)
            self._trim_logs()

    def _trim_logs(self) -> None:
        for log in (*(child.program.log for child in self._children), self._layout.log("supervisor")):
            try:
                logs.trim(log)
            except OSError as error:
                # A full disk is no reason to end the farm.
                _log.error("%s cannot be trimmed: %s", log, error)

    async def _start_servers(self, guard: Guard) -> Settings:
        if left := credentials.kept(self._layout.credentials):
            # Left by a supervisor that was killed; the home was guarded until all its children were gone.
            servers.clear_sockets(filter(credentials.is_free, left.ports.values()))
        for start in range(1, _STARTS + 1):
            drawn = credentials.load(self._layout.credentials)
            settings = servers.settings_for(drawn)
            redis = self._child(servers.redis_program(self._layout, drawn), guard)
            s3 = self._child(servers.s3_program(self._layout, drawn), guard)
            try:
                await redis.start()
                await s3.start()
                await readiness.redis_ready(redis, settings)
                await readiness.s3_ready(s3, settings)
                await readiness.strangers_refused(s3, servers.inner_ports(drawn), self._layout.s3 / AUTHORITY)
            except readiness.ServerExited:
                await self._stop_children()
                self._children.clear()
                if start == _STARTS or all(map(credentials.is_free, (*redis.program.ports, *s3.program.ports))):
                    raise
                _log.warning("a port has been taken in the meantime; trying others")
            else:
                return settings
        raise AssertionError("the last start returns or raises")

    def _child(self, program: Program, guard: Guard) -> Child:
        child = Child(program, guard, changed=self._write_state)
        self._children.append(child)
        return child

    async def _stop_children(self) -> None:
        """Workers first, together, for they hand their jobs back; then the S3 server; then Redis."""
        servers_up = {child.program.name: child for child in self._children if child.program.ports}
        await _stop(child for child in self._children if not child.program.ports)
        self._settings = None
        self._layout.state.unlink(missing_ok=True)
        self._layout.door.unlink(missing_ok=True)
        for name in ("s3", "redis"):
            if name in servers_up:
                await servers_up[name].stop()
                servers.clear_sockets(servers_up[name].program.ports)

    def _write_state(self) -> None:
        if self._settings is None:
            return
        status = state.FarmStatus(
            pid=os.getpid(),
            started=self._started,
            workers=self._plan.workers,
            models=self._plan.models,
            children=tuple(map(_describe, self._children)),
        )
        try:
            state.write(self._layout, self._settings, status)
        except OSError as error:
            # A full disk costs the news of a restart, never the restart.
            _log.error("%s cannot be written: %s", self._layout.state, error)


async def _stop(children: Iterable[Child]) -> None:
    await asyncio.gather(*(child.stop() for child in children))


def _describe(child: Child) -> state.ChildStatus:
    return state.ChildStatus(
        name=child.program.name,
        pid=child.pid,
        restarts=child.restarts,
        last_exit=child.last_exit,
        given_up=child.given_up,
        log=child.program.log,
        log_began=child.log_began or 0,
    )


def main() -> int:
    """Run a farm whose starter waits on `--ready-fd` for one line of JSON: what went wrong, or that nothing did."""
    parser = argparse.ArgumentParser(prog="farm.stack.supervisor")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--worker-command", type=json.loads, default=None)
    parser.add_argument("--worker-grace", type=float, default=FarmPlan.worker_grace)
    parser.add_argument("--web", action="store_true")
    parser.add_argument("--ready-fd", type=int, required=True)
    options = parser.parse_args()

    log_to_stderr(logging.INFO, "%(asctime)s %(levelname)s %(message)s")
    with os.fdopen(options.ready_fd, "w", encoding="utf-8") as starter:
        try:
            plan = FarmPlan(
                home=options.home,
                workers=options.workers,
                models=tuple(options.model),
                worker_command=tuple(options.worker_command or FarmPlan.worker_command),
                worker_grace=options.worker_grace,
                web=options.web,
            )
            asyncio.run(Supervisor(plan, ready=lambda _: _tell(starter, error=None)).run())
        except FarmError as error:
            _log.error("%s", error)
            _tell(starter, error=error)
            return error.exit_code
    return 0


def _tell(starter: TextIO, error: FarmError | None) -> None:
    # Nobody listens any more once the farm was ready, or when the starter was interrupted.
    with contextlib.suppress(BrokenPipeError):
        json.dump({"error": error and error.message, "hint": error and error.hint}, starter)
        starter.write("\n")
        starter.flush()


if __name__ == "__main__":
    sys.exit(main())
