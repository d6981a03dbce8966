"""The index as the site asks it: what a search finds, page by page, and what is known of a job."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from farm.client import FarmClient
from farm.web.index import query
from farm.web.index.database import Reader
from farm.web.index.entry import Entry
from farm.web.index.feeding import BUCKET, Feeder, Making
from farm.web.problems import later

T = TypeVar("T")

FILE = "web-index.sqlite"
_CATCHING_UP_SECONDS = 2.0
"""So long a search waits for what is being written down at that moment."""


@dataclass(frozen=True)
class Found:
    """A page of a search: pictures, the newest first; how many there are in all; the cursors of this page and the next.

    `making` says how far the index has been made, if it is not whole.
    """

    entries: list[Entry]
    total: int
    here: str | None
    next: str | None
    making: Making | None


class Index:
    """The index in a home. Methods raise `Refused` where it cannot be asked yet."""

    def __init__(self, client: FarmClient, home: Path, *, afresh: bool = False) -> None:
        self._reader = Reader(home / FILE)
        self.feeder = Feeder(client, home / FILE, afresh=afresh)

    def search(self, text: str, *, cursor: str | None, skip: int, limit: int) -> Found:
        """The page of a search that a cursor of another page means, or the first; `skip` passes over so many pictures.

        A first page has what was done before it was asked for. Raises `InvalidInput`.
        """
        asked = query.read(text)
        if cursor is None:
            self.feeder.catch_up(within=_CATCHING_UP_SECONDS)
        before = int(cursor) if cursor else None

        def read() -> Found:
            making = self.feeder.making  # before the file: what is whole later may not have been when it was read
            total = self._reader.count(asked)
            rows = self._reader.page(asked, before=before, skip=skip, limit=limit + 1)
            shown = rows[:limit]
            following = str(shown[-1][0]) if len(rows) > limit else None
            here = cursor or (str(shown[0][0] + 1) if shown else None)
            return Found([entry for _, entry in shown], total, here, following, making)

        return self._asked(read)

    def entry(self, job: str) -> Entry | None:
        """What is known of a job; None if it is not in the index, or there is none yet."""
        return self._asked(lambda: self._reader.entry(job))

    def _asked(self, read: Callable[[], T]) -> T:
        """What is read of an index of this farm's. What is damaged is for the one who writes to find and mend."""
        if self.feeder.bucket is None:
            raise later(503, "index-not-ready", "the index of pictures waits for the farm", 2)
        try:
            if self._reader.noted(BUCKET) == self.feeder.bucket:
                return read()
        except (sqlite3.Error, FileNotFoundError, ValidationError):
            self.feeder.look()
        raise later(503, "index-not-ready", "the index of pictures is being made anew", 2)
