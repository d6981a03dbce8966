"""Starting, stopping and looking at the local farm of a home."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from farm.errors import StackError
from farm.host import homes, lock
from farm.settings import Settings, load_local
from farm.stack import logs, site, state
from farm.stack.layout import Layout
from farm.stack.plan import PACKAGES, WORKER_COMMAND, WORKER_PREFIX, FarmPlan
from farm.stack.process import how_ended

if TYPE_CHECKING:
    from farm.jobs.status import WorkerInfo

_START_TIMEOUT_SECONDS = 180.0
_STOP_TIMEOUT_SECONDS = 60.0
_AFTER_KILL = 10.0
_POLL = 0.02
_WORKER_TIMEOUT_SECONDS = 60.0
_WORKER_POLL = 0.1
_DOOR_TIMEOUT_SECONDS = 20.0


def up(
    home: Path,
    workers: int = 1,
    models: Sequence[str] = (),
    *,
    worker_command: Sequence[str] = WORKER_COMMAND,
    web: bool = False,
    ready: Callable[[Settings], None] = lambda _: None,
    open_door: Callable[[str], None] = lambda _: None,
) -> None:
    """Run the farm of `home` in the foreground until Ctrl-C, with `workers` processes serving `models`.

    A model is `NAME`, or `NAME=SOURCE`. `ready` is called once when the servers answer and the workers are started,
    and `open_door`, with `web`, with the address by which a browser comes in to the farm's site. Raises `InvalidInput`
    for a bad model, and `StackError` when the home is in use or a server does not start.
    """
    from farm.stack.supervisor import Supervisor

    plan = FarmPlan(home, workers, tuple(models), tuple(worker_command), web=web)
    asyncio.run(Supervisor(plan, ready, open_door).run())


def start_detached(
    home: Path,
    workers: int = 1,
    models: Sequence[str] = (),
    *,
    worker_command: Sequence[str] = WORKER_COMMAND,
    worker_grace: float = FarmPlan.worker_grace,
    web: bool = False,
    timeout: float = _START_TIMEOUT_SECONDS,
) -> Settings:
    """Start the farm of `home` as a daemon and wait, up to `timeout` seconds, until its servers answer.

    Raises as `up` does; the `StackError` of a server that does not start shows the end of its log.
    """
    plan = FarmPlan(home, workers, tuple(models), tuple(worker_command), worker_grace, web)
    layout = Layout(home)
    layout.create()
    began = logs.size(layout.log("supervisor"))
    reading, writing = os.pipe()
    try:
        process = _spawn(plan, layout, writing)
    finally:
        os.close(writing)
    # Somebody must take note of its end, or it would stay a zombie that looks alive.
    threading.Thread(target=process.wait, daemon=True).start()
    with os.fdopen(reading, encoding="utf-8") as news:
        try:
            _wait_ready(news, layout, began, timeout)
        except BaseException:
            # Also on Ctrl-C: a farm must not stay if nobody saw it become ready.
            process.terminate()
            raise
    settings = load_local(home)
    if settings is None:
        raise StackError(f"the farm in {home} was stopped while it started")
    return settings


def stop(home: Path, timeout: float = _STOP_TIMEOUT_SECONDS) -> bool:
    """Stop the farm of `home`; False if none was running.

    After `timeout` seconds the supervisor is killed, and its children with it. Raises `StackError` when even that
    does not help, or the farm is another user's, and `HomeRefused`.
    """
    homes.check(home)
    layout = Layout(home)
    if not lock.is_held(layout.lock):
        _forget(layout)
        return False
    for number, seconds in ((signal.SIGTERM, timeout), (signal.SIGKILL, _AFTER_KILL)):
        _signal_holder(layout, number)
        if lock.wait_free(layout.lock, timeout=seconds):
            _forget(layout)
            return True
    raise StackError(f"the farm in {home} does not stop", hint=f"see {layout.log('supervisor')}")


def _forget(layout: Layout) -> None:
    """Remove what says where the farm is, unless the disk takes no writes: without a supervisor it says nothing."""
    with contextlib.suppress(OSError):
        layout.state.unlink(missing_ok=True)


def status(home: Path) -> state.FarmStatus | None:
    """The running farm of `home`, or None, even if a dead one left its `farm.json` behind. Raises `HomeRefused`."""
    homes.check(home)
    layout = Layout(home)
    return state.read(layout) if lock.holder(layout.lock) is not None else None


def wait_for_workers(home: Path, settings: Settings, timeout: float = _WORKER_TIMEOUT_SECONDS) -> bool:
    """Wait until as many workers as the farm of `home` runs have said that they are ready.

    False after `timeout` seconds: they are still loading. Raises `StackError` when one ended instead, with the end
    of its log, and `LedgerUnavailable`.
    """
    from farm.ledger.ledger import Ledger

    ledger, deadline = Ledger(settings), time.monotonic() + timeout
    try:
        while time.monotonic() < deadline:
            farm = status(home)
            if farm is None:
                raise StackError(f"the farm in {home} was stopped while its workers started")
            _refuse_ended(farm)
            if _ready(ledger.workers(), farm) >= farm.workers:
                return True
            time.sleep(_WORKER_POLL)
        return False
    finally:
        ledger.close()


def wait_for_door(home: Path, timeout: float = _DOOR_TIMEOUT_SECONDS) -> str | None:
    """The address by which a browser comes in to the site of the farm of `home`; None if it has none in time."""
    deadline = time.monotonic() + timeout
    while (found := site.door(home)) is None and time.monotonic() < deadline:
        farm = status(home)
        if farm is None or all(child.name != site.NAME or child.last_exit is not None for child in farm.children):
            return None
        time.sleep(_WORKER_POLL)
    return found


def _ready(workers: Iterable[WorkerInfo], farm: state.FarmStatus) -> int:
    """How many of the farm's own workers say that they are ready: what a killed one said stays for a while."""
    running = {child.pid for child in farm.children}
    return sum(one.state == "ready" and one.pid in running and one.host == socket.gethostname() for one in workers)


def _refuse_ended(farm: state.FarmStatus) -> None:
    for child in farm.children:
        if child.name.startswith(WORKER_PREFIX) and child.last_exit is not None:
            raise StackError(
                f"{child.name} does not start ({how_ended(child.last_exit)}); "
                f"the end of {child.log}:\n{logs.tail(child.log, since=child.log_began)}",
                hint="the servers are still running; 'farm down' stops them",
            )


def _spawn(plan: FarmPlan, layout: Layout, ready: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "farm.stack.supervisor", "--home", str(plan.home), "--ready-fd", str(ready)]
    command += ["--workers", str(plan.workers), "--worker-grace", str(plan.worker_grace)]
    command += [f"--model={model}" for model in plan.resolved_models()]
    command += ["--worker-command", json.dumps(plan.worker_command), *(["--web"] if plan.web else [])]
    log = layout.log("supervisor")
    log.touch(mode=0o600)
    logs.trim(log)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=PACKAGES,
            start_new_session=True,
            pass_fds=(ready,),
        )


def _wait_ready(news: IO[str], layout: Layout, began: int, timeout: float) -> None:
    """`began` is the size of the supervisor's log when it was started."""
    log = layout.log("supervisor")
    if not select.select([news], [], [], timeout)[0]:
        raise StackError(f"the farm is not ready after {timeout:g} s; the end of {log}:\n{logs.tail(log, since=began)}")
    line = news.readline()
    if not line:
        raise StackError(f"the farm's supervisor died; the end of {log}:\n{logs.tail(log, since=began)}")
    told: dict[str, Any] = json.loads(line)
    if told["error"]:
        raise StackError(told["error"], hint=told["hint"])


def _signal_holder(layout: Layout, number: signal.Signals) -> None:
    """Signal the supervisor. There is none when only its guard is left, or for a moment after it took the lock."""
    deadline = time.monotonic() + 1.0
    while lock.is_held(layout.lock) and time.monotonic() < deadline:
        pid = lock.holder(layout.lock)
        if pid is None:
            time.sleep(_POLL)
            continue
        try:
            os.kill(pid, number)
        except PermissionError as error:
            raise StackError(f"the farm in {layout.home} belongs to another user (process {pid})") from error
        except ProcessLookupError:
            continue
        return
