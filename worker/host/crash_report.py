"""What is left of a worker whose process did not end in order: a file that tells the next one what happened.

A crash in native code leaves the Python calls it happened under (`faulthandler`); a process that was killed leaves an
empty file. The next worker of the same machine finds it and tells the ledger, so that the user of a job that brings
its workers down reads how.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_log = logging.getLogger(__name__)

_SUFFIX = ".crash"
_LINES = 6
_KILLED = "ended without a word: it was killed, by somebody or by the kernel because memory ran out"


class CrashReport:
    """The file of a living worker; its lock says that the process lives."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._path = folder / f"{worker}{_SUFFIX}"
        self._file: IO[str] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = self._path.open("w", encoding="utf-8")
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError as error:
            _log.warning("a crash of this worker will leave no trace: %s", error)
            return
        faulthandler.enable(self._file, all_threads=False)

    def write(self, what: str) -> None:
        """Write down why, just before the end."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.write(what + "\n")
                self._file.flush()

    def close(self) -> None:
        """The worker ends in order: leave nothing."""
        if self._file is not None:
            faulthandler.disable()
            self._path.unlink(missing_ok=True)
            self._file.close()


def left_behind(folder: Path) -> Iterator[tuple[str, str]]:
    """Each dead worker's name and how it ended, as what follows the name in a sentence. Each is given once."""
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lines = [line.strip() for line in file.read(20_000).splitlines() if line.strip()]
                path.unlink()
        except OSError:  # its worker lives, or another was faster
            continue
        yield path.name.removesuffix(_SUFFIX), f"ended with: {' | '.join(lines[:_LINES])}" if lines else _KILLED
