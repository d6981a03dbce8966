"""Log files of bounded size: one older generation is kept beside each."""

from __future__ import annotations

import shutil
from pathlib import Path

LIMIT = 10_000_000


def trim(path: Path, limit: int = LIMIT) -> None:
    """Once a log is over `limit` bytes, move what it holds to `NAME.1` and empty it in place.

    In place, because its writer has it open (for appending) and need not know.
    """
    if path.exists() and path.stat().st_size > limit:
        shutil.copyfile(path, older(path))
        with path.open("r+b") as file:
            file.truncate()


def older(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def size(path: Path) -> int:
    """How many bytes a log holds; none if it is not there."""
    return path.stat().st_size if path.exists() else 0


def tail(path: Path, *, since: int = 0, lines: int = 12, reach: int = 16_384) -> str:
    """The last `lines` lines of a log, looking back at most `reach` bytes; empty if there is none.

    What was in it when it held `since` bytes is left out, unless it was trimmed after that.
    """
    try:
        with path.open("rb") as file:
            whole = size(path)
            file.seek(max(since if since <= whole else 0, whole - reach))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
