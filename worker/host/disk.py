"""The disk that traces are written to on their way: whether it takes them, and what to say if not."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TROUBLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOTDIR,
}  # fmt: skip
_ROOM = 64 * 2**20
_USUAL_FILE = 2**20
_PREFIX = "farm-job-"
_YOUNG_SECONDS = 3_600.0
"""A folder is not held yet in the moment in which it is made; and workers of earlier versions did not hold theirs."""


@contextmanager
def workspace() -> Iterator[Path]:
    """An empty folder for the time of the block. Raises `OSError`."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder:
        held = _opened(Path(folder))
        try:
            with suppress(OSError):  # where folders cannot be locked, nobody takes this one for one that is left
                fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield Path(folder)
        finally:
            os.close(held)


def remove_left_behind() -> None:
    """Remove the folders of workers that ended in the midst of their jobs: those that nobody holds any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            held = _opened(folder)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(held).st_mtime > _YOUNG_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)


def _opened(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def is_trouble(error: OSError) -> bool:
    """Whether the error is the disk's and not the job's: another machine may do better."""
    return error.errno in _TROUBLE


def has_room() -> bool:
    """Whether a file of a usual size can be written where traces are."""
    try:
        with tempfile.TemporaryFile(prefix="farm-room-") as file:
            file.write(bytes(_USUAL_FILE))
        return shutil.disk_usage(tempfile.gettempdir()).free > _ROOM
    except OSError:
        return False


def described(error: OSError) -> str:
    """What is wrong, and where."""
    return f"{error.strerror}: {error.filename or tempfile.gettempdir()}"
