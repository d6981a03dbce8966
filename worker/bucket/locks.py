"""Files that one process of this machine has at a time: by the kernel's locks, which go with whoever is killed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def locked_file(path: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """The file of this name, made if need be, when nobody else has it any more."""
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_still(path, file):
                yield path, file
                return


def _is_still(path: Path, file: IO[bytes]) -> bool:
    """Whether an open file has that name: whoever had it may have renamed or removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def is_abandoned(part: Path) -> bool:
    """Whether nobody fetches into this file any more."""
    try:
        with part.open("rb") as file:
            return try_lock(file)
    except FileNotFoundError:
        return True


def try_lock(file: IO[bytes] | IO[str]) -> bool:
    """Whether nobody else has this open file; it is ours from then on, until it is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
