"""Kills the farm's processes when their supervisor has died without stopping them.

Runs by itself, without the packages of the environment: `python -I -S guard.py STATE-FILE`. The supervisor writes
`+PID` for each process group it starts and `-PID` for each that ended; the end of that input is its death, and the
kernel reports it however the supervisor died. In the normal course every group has ended by then.

One guard serves all children, and works alike on Linux and macOS. Linux's PR_SET_PDEATHSIG would need code between
fork and exec in each child, is lost over setuid binaries and does not exist elsewhere; a watching wrapper for each
child would cost a Python process for each, and hide the child's own process id.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

_TIMEOUT_SECONDS = 3.0
_POLL = 0.01


def main(state: Path) -> None:
    # Whoever signals the whole farm (a terminal, systemd) means the supervisor; this process ends when that does.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    orphans = groups_left(sys.stdin.buffer)
    if orphans:
        # SIGKILL: nobody is left who would wait for a slow stop, and both servers are made to survive it.
        for group in orphans:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        wait_until_gone(orphans)
    state.unlink(missing_ok=True)


def groups_left(lines: Iterable[bytes]) -> set[int]:
    """Follow the supervisor's notes to their end: the process groups that were started and have not ended."""
    groups: set[int] = set()
    for line in lines:
        group = int(line[1:])
        if line.startswith(b"+"):
            groups.add(group)
        else:
            groups.discard(group)
    return groups


def wait_until_gone(groups: set[int]) -> None:
    """Wait a few seconds until no process of the groups is left. Then the farm's home is free (see `lock.py`)."""
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while time.monotonic() < deadline and any(map(lives, groups)):
        time.sleep(_POLL)


def lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return not is_zombie(group)


def is_zombie(pid: int) -> bool:
    """Whether a dead process waits for its parent to look. In a container that parent may never do so."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")[2].startswith("Z")
        )
    except OSError:  # not Linux, or gone
        return False


if __name__ == "__main__":
    main(Path(sys.argv[1]))
