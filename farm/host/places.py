"""Places that options name: looked at before anything is rendered for them, and left as they were until then."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from farm.errors import InvalidInput

_PROBE = bytes(65_536)
"""A full disk has no room for this."""


def check_folder(folder: Path, *, option: str) -> None:
    """Raise `InvalidInput` unless files can be put into the folder. It need not be there, and is not made here."""
    try:
        _try_folder(folder)
    except OSError as error:
        what = "written to" if _is_folder(folder) else "made"
        raise InvalidInput(f"{folder} cannot be {what}: {_reason(error)}", field=option) from error


def check_file(file: Path, *, option: str) -> None:
    """Raise `InvalidInput` unless the file can be written, or overwritten. Neither is done here."""
    try:
        _try_folder(file.parent)
        if not _is_there(file):
            return
        if not stat.S_ISREG(file.stat().st_mode):
            raise OSError(errno.EINVAL, "it is not a plain file")
        with file.open("r+b"):
            pass
    except OSError as error:
        raise InvalidInput(f"{file} cannot be written: {_reason(error)}", field=option) from error


@contextmanager
def replacing(file: Path, *, option: str) -> Iterator[Path]:
    """Where to write what becomes the file, whole, at the end; its folder is made. Raises `InvalidInput`."""
    try:
        target = file.resolve()
        unfinished = target.with_name(f".{os.getpid()}.part")
        with folder_for(target.parent):
            try:
                yield unfinished
                unfinished.replace(target)
            finally:
                unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInput(f"{file} cannot be written: {_reason(error)}", field=option) from error


@contextmanager
def folder_for(folder: Path) -> Iterator[None]:
    """The folder is there meanwhile; where it was made for that and nothing came into it, it is gone again at the end.

    Raises `OSError` if it cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not _is_there(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in missing:
            with suppress(OSError):  # it is not empty
                path.rmdir()


def _try_folder(folder: Path) -> None:
    """Write in the folder, or make one like it beside the first of its parents that is missing."""
    if _is_there(folder):
        return _write_into(folder)
    nearest = next(parent for parent in folder.parents if _is_there(parent))
    with tempfile.TemporaryDirectory(dir=nearest) as beside:
        like_it = Path(beside) / folder.relative_to(nearest)
        like_it.mkdir(parents=True)
        _write_into(like_it)


def _is_there(path: Path) -> bool:
    """Whether anything has this name. Raises `OSError` when that cannot be known."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):  # of the latter, the file that is in the way is there
        return False
    return True


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long, or a parent that may not be looked into
        return False


def _write_into(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(_PROBE)
        file.flush()


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
