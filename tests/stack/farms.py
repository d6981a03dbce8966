"""A farm under test, and what tests ask of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from farm import stack
from farm.host import lock
from farm.settings import Settings
from farm.stack import credentials, servers
from farm.stack.layout import Layout
from tests.waiting import eventually

# Says what it was given, then waits to be told to end.
TALKATIVE_WORKER = """
import json, os, pathlib, sys, time
told = {"arguments": sys.argv[1:], "environment": dict(os.environ), "directory": os.getcwd()}
name = sys.argv[sys.argv.index("--name") + 1]
file = pathlib.Path(os.environ["FARM_HOME"], name + ".json")
file.with_suffix(".part").write_text(json.dumps(told))
file.with_suffix(".part").replace(file)
time.sleep(600)
"""


def lives(pid: int) -> bool:
    """Whether a process runs. A zombie, which waits only for its parent to look, does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"


class Farm:
    """A farm under test: its home, its running processes, and a way to start it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.layout = Layout(home)

    def start(self, workers: int = 0, models: tuple[str, ...] = (), script: str = TALKATIVE_WORKER) -> Settings:
        command = (sys.executable, "-c", script)
        return stack.start_detached(self.home, workers, models, worker_command=command, worker_grace=1.0)

    @property
    def status(self) -> stack.FarmStatus:
        status = stack.status(self.home)
        assert status is not None
        return status

    def pid(self, name: str) -> int:
        """The process id of a child, once it runs."""
        return int(eventually(lambda: self._running().get(name), f"{name} runs"))

    def pids(self) -> dict[str, int]:
        """Every process of the farm that is recorded: supervisor and children."""
        return {"supervisor": self.status.pid, **self._running()}

    def _running(self) -> dict[str, int]:
        return {child.name: child.pid for child in self.status.children if child.pid is not None}


def end(farm: Farm) -> None:
    """End a farm, and see that nothing of it is left."""
    status = stack.status(farm.home)
    pids = [status.pid, *(child.pid for child in status.children if child.pid)] if status else []
    stack.stop(farm.home, timeout=0)
    assert not lock.is_held(farm.layout.lock)
    eventually(lambda: not any(map(lives, pids)), "every process is gone")
    if kept := credentials.kept(farm.layout.credentials):
        servers.clear_sockets(kept.ports.values())
