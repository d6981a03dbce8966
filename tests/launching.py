"""Starting worker processes and commands in a moment.

To import torch and diffusers takes most of the time until a worker is ready, ten seconds of a busy core; and nearly all
that a command takes of one is its imports. So one process does both once for all tests of a session (Python's own fork
server), and every worker and command is forked from that: a process of its own in every respect, with the environment,
folder and streams that it is given, which runs what `python -m worker` or `farm` runs, or a script in its place.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path

from farm.settings import Settings, load_local
from tests.waiting import eventually

_forking = multiprocessing.get_context("forkserver")
_forking.set_forkserver_preload(["tests.imported"])


class Forked:
    """A forked worker, to be used as one would use a `subprocess.Popen`. It leads a session of its own.

    `script` is run in its place as `python -c` would run it, but that all of a worker's modules are imported already.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        folder: Path | None = None,
        script: str | None = None,
        errors: Path | None = None,
    ) -> None:
        """`log` takes what is written to both streams, or without that of standard error if `errors` is to take it."""
        told = (list(arguments), dict(environment), (str(log), str(errors or log)), str(folder or Path.cwd()), script)
        for file in (log, errors or log):
            file.touch()  # whoever has a worker can read what it says, though it has said nothing yet
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


def run(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path | None = None,
    timeout: float = 120.0,
    script: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Fork a worker that is expected to end by itself. Raises `subprocess.TimeoutExpired` if it does not."""
    with tempfile.TemporaryDirectory() as logs:
        log, errors = Path(logs, "log"), Path(logs, "errors")
        process = Forked(arguments, environment=environment, log=log, errors=errors, folder=folder, script=script)
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        told = (file.read_text(encoding="utf-8") for file in (log, errors))
        return subprocess.CompletedProcess(process.args, status, *told)


_COMMAND = """
from farm.cli.main import main
from tests import forking
forking.install()
{before}
main()
"""
_START = """
import sys
from pathlib import Path
from farm import stack
from tests import forking
forking.install()
home, workers, web, *models = sys.argv[1:]
stack.start_detached(Path(home), int(workers), models, web=web == "web")
"""


def farm(
    *arguments: str, environment: Mapping[str, str], folder: Path | None = None, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """Fork `farm …`, as a person would run it, and so what it starts. What is to be done `before` is Python.

    Raises `subprocess.TimeoutExpired` if it takes many minutes.
    """
    script = _COMMAND.format(before=before)
    return run(arguments, environment=environment, folder=folder, timeout=600.0, script=script)


def begun(*arguments: str, environment: Mapping[str, str], log: Path, errors: Path) -> Forked:
    """Fork `farm …`, and do not wait for its end."""
    return Forked(arguments, environment=environment, log=log, errors=errors, script=_COMMAND.format(before=""))


def start_detached(
    home: Path, workers: int, *models: str, environment: Mapping[str, str], web: bool = False
) -> Settings:
    """As `stack.start_detached`; the supervisor, its workers and the site are forked too, however often they start."""
    told = (str(home), str(workers), "web" if web else "no web", *models)
    done = run(told, environment=environment, timeout=180.0, script=_START)
    assert done.returncode == 0, done.stderr
    settings = load_local(home)
    assert settings is not None
    return settings


def _run(
    arguments: list[str], environment: dict[str, str], streams: tuple[str, str], folder: str, script: str | None
) -> None:
    """What the forked process does, from its beginning to its end."""
    os.setsid()
    for stream, file in enumerate(streams, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    if script is not None:
        sys.argv = ["-c", *arguments]
        return exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
    from worker.__main__ import main

    main(args=arguments, prog_name="python -m worker")
