"""One supervisor per home: a lock that the kernel releases when its last holder dies, however it dies.

The guard (see `farm/stack/guard.py`) inherits the open file, so the home stays locked until the children of a killed
supervisor are gone too: two Redis servers never write to one folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

from farm.errors import StackError

_POLL = 0.02
# A probe (`is_held`) holds the lock for a moment, and a guard clears up for a few; neither is a running farm.
_TIMEOUT_SECONDS = 5.0


class HomeLock:
    """The held lock of a home. `descriptor` may be handed to a process that is to hold it as well."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _acquire(self.descriptor, path)
        except BaseException:
            os.close(self.descriptor)
            raise
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let go; the lock is free once everyone who inherited it is gone as well."""
        os.close(self.descriptor)


def is_held(path: Path) -> bool:
    """Whether a supervisor, or what is left of one, holds the lock."""
    try:
        descriptor = _opened(path)
    except FileNotFoundError:
        return False
    try:
        return not _try(descriptor)
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    """To write if that can be, for NFS locks no file that is opened to be read."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def holder(path: Path) -> int | None:
    """The process id of the supervisor that holds the lock, or None while there is no living one."""
    try:
        pid = int(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return pid if _lives(pid) and is_held(path) else None


def wait_free(path: Path, *, timeout: float) -> bool:
    """Wait up to `timeout` seconds until nobody holds the lock; False if somebody still does."""
    deadline = time.monotonic() + timeout
    while is_held(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def _acquire(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    refusals = 0
    while not _try(descriptor):
        refusals += 1
        pid = holder(path)
        if pid is not None and refusals > 5:
            raise StackError(
                f"a farm is already running in {path.parent} (process {pid})",
                hint="'farm down' stops it; to run another, set FARM_HOME to another home",
            )
        if time.monotonic() > deadline:
            raise StackError(f"an earlier farm in {path.parent} is still being cleared away", hint="try again")
        time.sleep(_POLL)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
