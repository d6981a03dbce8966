"""Starting worker processes in a moment.

To import torch and diffusers takes most of the time until a worker is ready, ten seconds of a busy core. So one
process does it once for all tests of a session (Python's own fork server), and every worker is forked from that: a
process of its own in every respect, with the environment, folder and log that it is given, which runs what
`python -m worker` runs.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path

from tests.waiting import eventually

_forking = multiprocessing.get_context("forkserver")
_forking.set_forkserver_preload(["tests.imported"])


class Forked:
    """A forked worker, to be used as one would use a `subprocess.Popen`. It leads a session of its own."""

    def __init__(
        self, arguments: Sequence[str], *, environment: Mapping[str, str], log: Path, folder: Path | None = None
    ) -> None:
        told = (list(arguments), dict(environment), str(log), str(folder or Path.cwd()))
        self._lock = threading.Lock()
        self._process = _forking.Process(target=_run, args=told, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self.args = ("worker", *arguments)
        eventually(self._has_begun, "the worker leads a session of its own")

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        with self._lock:  # it can be read once
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status. Raises `subprocess.TimeoutExpired`."""
        wait([self._process.sentinel], timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _has_begun(self) -> bool:
        try:
            return os.getpgid(self.pid) == self.pid
        except ProcessLookupError:
            return True


def _run(arguments: list[str], environment: dict[str, str], log: str, folder: str) -> None:
    """What the forked process does, from its beginning to its end."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    from worker.__main__ import main

    main(args=arguments, prog_name="python -m worker")
