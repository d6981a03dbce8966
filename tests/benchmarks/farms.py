"""A local farm of a benchmark's own, and processes whose time is measured."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from farm import stack
from farm.settings import Settings

_PATIENCE = 900.0


@dataclass(frozen=True)
class LocalFarm:
    """A running farm, and the environment of a shell beside it."""

    where: Settings
    environment: dict[str, str]

    def shell(self, *arguments: str) -> dict[str, float]:
        """Run `farm …` as a person would. Returns its seconds by the clock and on the CPU."""
        return process([sys.executable, "-m", "farm", *arguments], self.environment)


@contextmanager
def local_farm(*, workers: int = 0) -> Iterator[LocalFarm]:
    """A farm with real servers, which ends with the block."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        home = Path(folder) / "home"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FARM_", "AWS_"))}
        os.environ.clear()
        os.environ.update(kept)
        try:
            yield LocalFarm(stack.start_detached(home, workers=workers), {**kept, "FARM_HOME": str(home)})
        finally:
            stack.stop(home)


def process(command: Sequence[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a command to its end. Returns its seconds by the clock and on the CPU."""
    before, began = _children(), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=_PATIENCE)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return {"seconds": time.perf_counter() - began, "cpu_seconds": _children() - before}


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
