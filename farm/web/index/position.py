"""How far the index has come in the ledger's events, for those who wait for that."""

from __future__ import annotations

import threading

from farm.ledger.streams import moment


class Position:
    """The cursor of the last event that is known, from one thread to others. Lost, until it has come somewhere."""

    def __init__(self) -> None:
        self._cursor: str | None = None
        self._changed = threading.Condition()

    @property
    def is_lost(self) -> bool:
        return self._cursor is None

    def come_to(self, cursor: str | None) -> None:
        """Tell those who wait; None while nobody can say when it goes on."""
        with self._changed:
            self._cursor = cursor
            self._changed.notify_all()

    def wait_for(self, cursor: str, *, within: float) -> None:
        """Wait until it has come there, for so many seconds at the most, or until it is lost."""
        with self._changed:
            self._changed.wait_for(lambda: self._cursor is None or moment(self._cursor) >= moment(cursor), within)
