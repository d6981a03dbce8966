"""How much memory there is and how much of it is taken: of the machine or the container, and by this process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from farm.jobs.status import MemoryUse

_log = logging.getLogger(__name__)

_CONTROL_GROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Container:
    """A container's limit of memory in bytes, and what it holds of that, less what the kernel gives up at once."""

    most: int
    held: int

    @property
    def left(self) -> int:
        return self.most - self.held


def in_container() -> Container | None:
    """The container that this process runs in, if it has a limit (control groups, version 2)."""
    try:
        most, now, details = (
            (_CONTROL_GROUP / name).read_text(encoding="utf-8").strip()
            for name in ("memory.max", "memory.current", "memory.stat")
        )
    except OSError:
        return None
    cached = next((int(line.split()[1]) for line in details.splitlines() if line.startswith("inactive_file ")), 0)
    return None if most == "max" else Container(int(most), int(now) - cached)


def of_host() -> MemoryUse:
    """The memory of this machine, or of the container if that has less."""
    machine, own = psutil.virtual_memory(), psutil.Process().memory_info().rss
    container = in_container()
    if container and 0 < container.most < machine.total:
        return MemoryUse(total=container.most, used=max(0, container.held), own=own)
    return MemoryUse(total=machine.total, used=machine.total - machine.available, own=own)


class MemoryGauge:
    """Reads every so many seconds how much memory is taken, on a thread of its own.

    For a driver that hangs answers nobody; and whoever keeps the leases, and finds that the engine hangs, must not wait
    for it.
    """

    def __init__(self, of_device: Callable[[], MemoryUse | None], *, seconds: float) -> None:
        self._of_device = of_device
        self._seconds = seconds
        self._stop = threading.Event()
        self._told = False
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)
        self.device: MemoryUse | None = None
        self.host: MemoryUse | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Read no more. Waits for nobody."""
        self._stop.set()

    def read(self) -> None:
        """Read once. What cannot be read is not known, and that is logged the first time."""
        try:
            self.host, self.device = of_host(), self._of_device()
        except Exception as error:  # of a driver or a system that is as nobody expects
            self.host = self.device = None
            if not self._told:
                _log.warning("how much memory is taken is not known: %s", error)
            self._told = True

    def _run(self) -> None:
        while not self._stop.is_set():
            self.read()
            self._stop.wait(self._seconds)
