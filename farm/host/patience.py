"""Servers that keep people waiting: what the main thread has asked and not yet been answered, and who tells of it.

Redis and S3 are waited for through outages that end by themselves, for minutes. Nobody should wonder meanwhile whether
anything goes on at all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE_SECONDS = 10.0
"""After so long without an answer it is told."""
_LOOK_SECONDS = 1.0

_waits: tuple[str, float] | None = None
"""The server that the main thread waits for, and since when."""


def asked(server: str) -> None:
    """The calling thread waits for an answer from now on; what others than the main one wait for is not told."""
    global _waits
    if threading.current_thread() is threading.main_thread():
        _waits = server, time.monotonic()


def answered() -> None:
    """It has got one, or gives up."""
    global _waits
    if threading.current_thread() is threading.main_thread():
        _waits = None


@contextmanager
def asking(server: str) -> Iterator[None]:
    """For as long as a server is asked something."""
    asked(server)
    try:
        yield
    finally:
        answered()


def tell_of_silence(tell: Callable[[str], object], *, within: float | None = None) -> None:
    """From now on `tell`, once and from a thread, of each server that does not answer `within` so many seconds."""
    threading.Thread(target=_watch, args=(tell, within or PATIENCE_SECONDS), name="patience", daemon=True).start()


def _watch(tell: Callable[[str], object], within: float) -> None:
    told = set[str]()
    while True:
        time.sleep(min(_LOOK_SECONDS, within / 2))
        waits = _waits
        if waits and waits[0] not in told and time.monotonic() - waits[1] > within:
            told.add(waits[0])
            tell(f"{waits[0]} has not answered for {within:g} s; waiting for it (Ctrl-C ends that)")
