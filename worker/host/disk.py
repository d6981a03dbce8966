"""The disk that traces are written to on their way: whether it takes them, and what to say if not."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TROUBLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOTDIR,
}  # fmt: skip
_ROOM = 64 * 2**20
_USUAL_FILE = 2**20


@contextmanager
def workspace() -> Iterator[Path]:
    """An empty folder for the time of the block. Raises `OSError`."""
    with tempfile.TemporaryDirectory(prefix="farm-job-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


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
