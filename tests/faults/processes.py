"""Processes that a test may kill, ask to leave, freeze, thaw and start again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from farm.stack import guard
from tests.launching import Forked
from tests.stack.farms import lives
from tests.waiting import eventually


def working_in(folder: Path) -> list[str]:
    """The commands of processes that run in a folder, or for the farm whose home it is. Zombies do not count."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            is_there = (process / "cwd").readlink().is_relative_to(folder)
            is_for_it = f"FARM_HOME={folder}\0".encode() in (process / "environ").read_bytes()
            if (is_there or is_for_it) and lives(int(process.name)):
                found.append((process / "cmdline").read_text(encoding="utf-8").replace("\0", " "))
    return found


def _state_of(thread: Path) -> str:
    """As the kernel writes it: R for one that runs, T for one that was stopped, …"""
    return (thread / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]


class Watch:
    """The local farm's own guard: should the tests die themselves, everything noted here is killed."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-I", "-S", guard.__file__, str(folder / "none")]
        self._guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, bufsize=0)

    def note(self, group: int) -> None:
        self._write(f"+{group}\n")

    def forget(self, group: int) -> None:
        self._write(f"-{group}\n")

    def close(self) -> None:
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait(30)

    def _write(self, line: str) -> None:
        assert self._guard.stdin is not None
        self._guard.stdin.write(line.encode())


class Process:
    """One program that can be started again and again, each time with the same command, folder and log.

    Without a command it is a worker, with `arguments`, or the script that is run in its place.
    """

    def __init__(
        self,
        name: str,
        command: tuple[str, ...] | None,
        folder: Path,
        environment: Mapping[str, str],
        log: Path,
        watch: Watch,
        arguments: tuple[str, ...] = (),
        script: str | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._command, self._folder, self._environment, self._watch = command, folder, environment, watch
        self._arguments, self._script = arguments, script
        self._running: Forked | subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._running is not None and self._running.poll() is None

    @property
    def last_words(self) -> str:
        return self.log.read_text(errors="replace", encoding="utf-8")[-4000:]

    def start(self) -> None:
        assert not self.is_running, f"{self.name} runs already"
        self._running = self._started()
        try:
            self._watch.note(self._running.pid)
        except ValueError:  # the farm was closed meanwhile
            self._running.kill()
            self._running.wait()
            raise

    def _started(self) -> Forked | subprocess.Popen[bytes]:
        if self._command is None:
            return Forked(
                self._arguments,
                environment=self._environment,
                log=self.log,
                folder=self._folder,
                script=self._script,
            )
        with self.log.open("ab") as output:
            return subprocess.Popen(
                (*self._command, *self._arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,
            )

    def kill(self) -> None:
        """As by the kernel: no handler runs. Nothing, if it has ended."""
        killed = self._process
        self._signal(signal.SIGKILL)
        self._ended(killed, 60.0)

    def ask_to_leave(self) -> None:
        self._signal(signal.SIGTERM)

    def freeze(self) -> None:
        """It keeps its connections, its memory and its leases' names, and does nothing."""
        self._signal(signal.SIGSTOP)
        eventually(self._is_stopped, f"every thread of {self.name} has stopped")  # on a busy machine not at once

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def wait(self, within: float = 60.0) -> int:
        """The exit status of the process that runs now, negative for a signal."""
        return self._ended(self._process, within)

    def _is_stopped(self) -> bool:
        """Whether none of its threads runs, or it has ended."""
        with contextlib.suppress(OSError):  # a thread, or all of it, is just ending
            states = [_state_of(thread) for thread in Path(f"/proc/{self.pid}/task").iterdir()]
            return not set(states) - {"T", "Z"}
        return not self.is_running

    @property
    def _process(self) -> Forked | subprocess.Popen[bytes]:
        assert self._running is not None, f"{self.name} was never started"
        return self._running

    def _ended(self, process: Forked | subprocess.Popen[bytes], within: float) -> int:
        """Wait for a process that may have a successor by then."""
        status = process.wait(within)
        self._watch.forget(process.pid)
        return status

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)
