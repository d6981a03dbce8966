"""Whether a worker takes jobs, and if not, why: several may have a reason against it at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOOK_SECONDS = 0.2


class Intake:
    """Open until somebody pauses or closes it. Every wake-up passes through `entering`, from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._reasons: list[str] = []
        self._inside = 0
        self._closed: str | None = None

    @property
    def is_open(self) -> bool:
        return self._closed is None and not self._reasons

    @property
    def reason(self) -> str | None:
        """Why no jobs are taken: the reason that has held the longest."""
        reasons = tuple(self._reasons)
        return self._closed or (reasons[0] if reasons else None)

    def close(self, reason: str) -> None:
        """Take no more jobs, for good. Takes no lock, so that a signal's handler may call it."""
        self._closed = reason

    @contextmanager
    def entering(self) -> Iterator[bool]:
        """Whether one may take a job now; `alone` waits for the end of the block of those who may."""
        with self._changed:
            admitted = self.is_open
            self._inside += admitted
        try:
            yield admitted
        finally:
            with self._changed:
                self._inside -= admitted
                self._changed.notify_all()

    @contextmanager
    def paused(self, reason: str) -> Iterator[None]:
        """Take no jobs during the block."""
        with self._changed:
            self._reasons.append(reason)
        try:
            yield
        finally:
            with self._changed:
                self._reasons.remove(reason)

    @contextmanager
    def alone(self, reason: str) -> Iterator[bool]:
        """Take no jobs during the block, which begins when nobody is inside any more.

        False, at once, if somebody else is alone or wants to be, or if no jobs are taken anyway.
        """
        with self._changed:
            is_first = self.is_open  # a second one finds the first one's reason
            if is_first:
                self._reasons.append(reason)
        if not is_first:
            yield False
            return
        try:
            with self._changed:
                while self._inside and self._closed is None:
                    self._changed.wait(_LOOK_SECONDS)  # `close` notifies nobody
                is_alone = self._closed is None
            yield is_alone
        finally:
            with self._changed:
                self._reasons.remove(reason)
