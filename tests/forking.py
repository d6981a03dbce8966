"""Processes of Python that begin with all that a worker imports, which takes more of a core than what most tests do.

`install()` makes a fork of this process of each `python -m MODULE …` or `python -c …` that is started from then on,
if that would import torch or start what does, or serve the site. All else is as it would be: the command, the folder,
the environment, the streams, the session, the signals and the exit status.
"""

from __future__ import annotations

import logging
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

_FORKED = ("tests.gpu", "tests.gpu.digests", "worker", "worker.models.schedules", "farm.stack.supervisor")
_MOST_DESCRIPTORS = 4096


@dataclass(frozen=True)
class _Given:
    """What a process is started with. What is None or -1 is inherited."""

    streams: tuple[int, int, int]
    descriptors: Sequence[int]
    environment: Mapping[str, str] | None
    folder: str | os.PathLike[str] | None
    umask: int
    own_session: bool


class _Popen(subprocess.Popen[Any]):
    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:
        run = _found([part for part in args if part != "-P"])
        if run is None:
            return super()._execute_child(args, *rest)  # type: ignore[misc,no-any-return]
        (_, _, _, descriptors, folder, environment), pipes, (umask, own_session) = rest[:6], rest[9:15], rest[19:21]
        stdin, _, _, stdout, _, stderr = pipes
        given = _Given((stdin, stdout, stderr), descriptors, environment, folder, umask, own_session)
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(run, given)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def install() -> None:
    """For this process and all that it forks."""
    subprocess.Popen = _Popen  # type: ignore[misc]


def _found(command: Sequence[str]) -> Callable[[], object] | None:
    """What a command of Python runs, if it is to be forked."""
    match command:
        case [sys.executable, "-m", "farm", "web", *arguments]:
            return lambda: _run_module("farm", ["web", *arguments])
        case [sys.executable, "-m", module, *arguments] if module in _FORKED:
            return lambda: _run_module(module, arguments)
        case [sys.executable, "-c", code] if "import json, torch" in code:
            return lambda: exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    return None


def _run_module(module: str, arguments: Sequence[str]) -> None:
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _become(run: Callable[[], object], given: _Given) -> NoReturn:
    """What Python does with what it is to run, from its beginning to its end."""
    status: Any = 1
    try:
        _take(given)
        run()
        status = 0
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))


def _take(given: _Given) -> None:
    """Leave behind all that was this process' own when it was forked."""
    if given.own_session:
        os.setsid()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for stream, descriptor in enumerate(given.streams):
        if descriptor != -1:
            os.dup2(descriptor, stream)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process lives
    first = 3
    for descriptor in (*sorted(given.descriptors), _MOST_DESCRIPTORS):
        os.closerange(first, descriptor)
        first = descriptor + 1
    logging.getLogger().handlers.clear()
    if given.umask != -1:
        os.umask(given.umask)
    if given.folder is not None:
        os.chdir(given.folder)
    if given.environment is not None:
        os.environ.clear()
        os.environ.update(given.environment)
