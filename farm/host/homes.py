"""The folder of a local farm: made so that nobody else can write to it, and refused where somebody can.

Whoever can write there decides what the farm's servers let in, what its workers believe to be finished pictures and
compiled kernels, and where commands send their passwords. So a home has to be its user's alone, each folder and file
in it that is read again too, and nobody else may be able to put another in its place: what ssh asks of `~/.ssh`.
"""

from __future__ import annotations

import os
import shlex
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from farm.errors import HomeRefused

PRIVATE = 0o700
# What a farm and its workers read again, and sockets by which they are reached, lie directly in these.
_READ_AGAIN = ("", "redis", "s3")
_ROOT = 0
_PROBE_BYTES = 2**16


def make(folder: Path) -> None:
    """Make the folder, and those above it, unless it is there: open to its owner only, whatever the umask.

    Raises `OSError`.
    """
    for missing in [one for one in (*reversed(folder.parents), folder) if not one.exists()]:
        missing.mkdir(mode=PRIVATE, exist_ok=True)
        missing.chmod(PRIVATE)


def prepare(home: Path) -> None:
    """`make` a home and `check` it. Raises `HomeRefused`, also where it cannot be made."""
    try:
        make(home)
    except OSError as error:
        raise _unusable(home, error) from error
    check(home)


def check(home: Path) -> None:
    """Refuse a home that is another's, or that others can write to or replace; one that is not there passes.

    Raises `HomeRefused` that says which folder or file it is, and what mends it.
    """
    try:
        try:
            home.lstat()
        except FileNotFoundError:
            return
        home = home.resolve()
        if not home.is_dir():
            raise HomeRefused(f"the farm's home {home} is not a folder", hint="set FARM_HOME to another")
        _check_own(home)
        _check_above(home)
        for path in _inside(home):
            _check_own(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        raise _unusable(home, error) from error


def check_writable(home: Path) -> None:
    """Raises `HomeRefused` where no file can be written: on a disk that is full, or that takes no writes."""
    try:
        with tempfile.TemporaryFile(dir=home) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
    except OSError as error:
        raise _unusable(home, error) from error


def _inside(home: Path) -> Iterator[Path]:
    for folder in (home / name for name in _READ_AGAIN):
        if folder.is_dir():
            yield from folder.iterdir()


def _check_own(path: Path) -> None:
    """A link has to be ours as well as what it leads to; its own mode says nothing."""
    try:
        found = path.lstat()
        if found.st_uid != os.geteuid():
            raise _anothers(path, found.st_uid)
        if stat.S_ISLNK(found.st_mode):
            found = path.stat()
            if found.st_uid != os.geteuid():
                raise _anothers(path, found.st_uid)
    except FileNotFoundError:  # it has gone in the meantime, or leads nowhere
        return
    if _others_write(found):
        raise HomeRefused(f"other users can write to {path}", hint=f"chmod go-w {shlex.quote(str(path))}")


def _check_above(home: Path) -> None:
    for folder in home.parents:
        found = folder.stat()
        # Root may be at work in a user's folder, as in a container with the user's clone mounted: whoever owns that can
        # put another home there, but not one that belongs to root.
        if found.st_uid not in (_ROOT, os.geteuid()) and os.geteuid() != _ROOT:
            raise HomeRefused(
                f"the farm's home {home} is in a folder of another user ({_name(found.st_uid)}'s {folder}), "
                "who can put another in its place",
                hint="set FARM_HOME to another home",
            )
        if _others_write(found) and not found.st_mode & stat.S_ISVTX:
            raise HomeRefused(
                f"other users can write to {folder}, and so replace the farm's home {home}",
                hint=f"chmod go-w {shlex.quote(str(folder))}, or set FARM_HOME to another home",
            )


def _others_write(found: os.stat_result) -> bool:
    if found.st_mode & stat.S_IWOTH:
        return True
    return bool(found.st_mode & stat.S_IWGRP) and not _is_ours_alone(found.st_gid)


def _is_ours_alone(group: int) -> bool:
    """Whether a group is of the kind that many systems give each user, named after the user and with no one else in it.

    There folders are made writable for the group by default.
    """
    import grp
    import pwd

    try:
        user, entry = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    alone = entry.gr_name == user.pw_name and set(entry.gr_mem) <= {user.pw_name}
    return alone and user.pw_gid == group


def _anothers(path: Path, owner: int) -> HomeRefused:
    return HomeRefused(
        f"{path} belongs to another user ({_name(owner)})", hint="set FARM_HOME to another; each user has their own"
    )


def _unusable(home: Path, error: Exception) -> HomeRefused:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return HomeRefused(
        f"the farm's home {home} cannot be used: {reason}", hint="set FARM_HOME to a folder that you can write to"
    )


def _name(user: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
