"""Stdout and stderr as they may be: in any encoding, closed, on a full disk, or a pipe whose reader has gone."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_NOT_WRITTEN = 1


class Unwritable(OSError):
    """Stdout or stderr takes no more."""


def settle() -> None:
    """Let both streams take any text: what they cannot show is replaced, and what is closed leads nowhere.

    On stderr it is escaped, for it may be a traceback. What cannot be written is an `Unwritable` from now on.
    """
    sys.stdout = _settled(sys.stdout, errors="replace")
    sys.stderr = _settled(sys.stderr, errors="backslashreplace")


@contextmanager
def written() -> Iterator[None]:
    """A context at whose end all is written; exits with 1 if that cannot be, and says why unless a reader has gone."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except Unwritable as error:
        if error.errno != errno.EPIPE:
            sys.stderr.write(f"farm: the output cannot be written: {error.strerror}\n")
        sys.exit(_NOT_WRITTEN)


class _Device(io.FileIO):
    """Where a stream leads; nowhere, once it has failed, so that the interpreter may end in peace."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            raise Unwritable(error.errno, error.strerror) from None


def _settled(stream: TextIO | None, *, errors: str) -> TextIO:
    if stream is None:  # closed; its number would go to the next file that is opened
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - as long as the process lives
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Device(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=errors,
        line_buffering=stream is sys.stderr or stream.isatty(),
        write_through=bool(getattr(stream, "write_through", False)),
    )
