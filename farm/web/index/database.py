"""The file of the index: SQLite with full text (FTS5), of one writer and any number of readers.

Three tables have a row for each picture, by its place (`farm/web/index/places.py`): which job it is, what is told of
it, and its words. So what is newest, what comes after a cursor and what is of a day are ranges of one number, which the
full text can be asked for as well.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from farm.web.index import places
from farm.web.index.entry import Entry
from farm.web.index.query import Query, facets_of

_VERSION = 1
"""Of the tables: a file of another is made anew."""
_SCHEMA = f"""
CREATE TABLE places(place INTEGER PRIMARY KEY, job TEXT NOT NULL UNIQUE);
CREATE TABLE told(place INTEGER PRIMARY KEY, entry TEXT NOT NULL);
CREATE VIRTUAL TABLE words USING fts5(prompt, negative, labels, facets,
    tokenize='unicode61 remove_diacritics 2', prefix='1 2 3');
CREATE TABLE notes(name TEXT PRIMARY KEY, value TEXT NOT NULL);
PRAGMA user_version = {_VERSION};
"""
_WAIT_SECONDS = 5.0
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_AFTER_ALL = "~"
"""Sorts after whatever an id of a job has."""


class Writer:
    """The one who writes. Methods raise `sqlite3.Error`; `is_damage` tells which mean that the file is of no use."""

    def __init__(self, path: Path) -> None:
        """Open the file; one that is missing, damaged or of another version is made anew."""
        self._path = path
        try:
            self._connection = self._opened()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self._connection = self._made_anew()

    def _opened(self) -> sqlite3.Connection:
        is_new = not self._path.exists()
        if is_new:
            os.close(os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self._path, timeout=_WAIT_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            if is_new:
                connection.executescript(_SCHEMA)
            elif connection.execute("PRAGMA user_version").fetchone()[0] != _VERSION or not _is_whole(connection):
                connection.close()
                return self._made_anew()
        except BaseException:
            connection.close()
            raise
        return connection

    def _made_anew(self) -> sqlite3.Connection:
        for ending in ("", "-wal", "-shm", "-journal"):
            self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
        return self._opened()

    def empty(self) -> None:
        """Make the file anew, with nothing in it."""
        self._connection.close()
        self._connection = self._made_anew()

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """What is written within is written at once, or not at all."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def put(self, entries: Iterable[Entry]) -> None:
        """Add pictures, each in the place of what was known of its job before."""
        for entry in entries:
            self.remove([entry.job])
            place = self._free_place(entry)
            labels = " ".join(word for label in entry.labels.items() for word in label)
            row = (place, "\n".join(entry.prompts), entry.negative, labels, facets_of(entry))
            run = self._connection.execute
            run("INSERT INTO places VALUES (?, ?)", (place, entry.job))
            run("INSERT INTO told VALUES (?, ?)", (place, entry.model_dump_json()))
            run("INSERT INTO words(rowid, prompt, negative, labels, facets) VALUES (?, ?, ?, ?, ?)", row)

    def remove(self, jobs: Iterable[str]) -> None:
        """Remove what is known of jobs."""
        for job in jobs:
            self._remove(self._connection.execute("SELECT place FROM places WHERE job = ?", (job,)).fetchall())

    def remove_between(self, older: str, newer: str) -> None:
        """Remove what is known of the batches that sort between two others; '' is before all."""
        bounds = (f"{older}-{_AFTER_ALL}" if older else "", newer)
        found = self._connection.execute("SELECT place FROM places WHERE job > ? AND job < ?", bounds).fetchall()
        self._remove(found)

    def jobs_of(self, batch: str) -> set[str]:
        """The jobs of a batch that are known."""
        bounds = (f"{batch}-", f"{batch}-{_AFTER_ALL}")
        return {job for (job,) in self._connection.execute("SELECT job FROM places WHERE job BETWEEN ? AND ?", bounds)}

    def note(self, name: str, value: str) -> None:
        """Keep a value under a name."""
        self._connection.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))

    def noted(self, name: str) -> str | None:
        return _noted(self._connection, name)

    def tidy(self) -> None:
        """Put the full text in order, after much was written."""
        self._connection.execute("INSERT INTO words(words) VALUES ('optimize')")

    def _free_place(self, entry: Entry) -> int:
        place = places.wanted(entry.finished, entry.job)
        while self._connection.execute("SELECT 1 FROM places WHERE place = ?", (place,)).fetchone():
            place -= 1
        return place

    def _remove(self, found: Sequence[tuple[int]]) -> None:
        for (place,) in found:
            self._connection.execute("DELETE FROM words WHERE rowid = ?", (place,))
            self._connection.execute("DELETE FROM told WHERE place = ?", (place,))
            self._connection.execute("DELETE FROM places WHERE place = ?", (place,))


class Reader:
    """Those who read, each thread over a connection of its own. Methods raise `sqlite3.Error`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own = threading.local()

    def page(self, query: Query, *, before: int | None, skip: int, limit: int) -> list[tuple[int, Entry]]:
        """Up to `limit` pictures with their places, the newest first, after `skip` that are before a place."""
        newest = query.newest if before is None else min(query.newest, before - 1)
        bounds = (query.oldest, newest, limit, skip)
        if query.match is None:
            found = "SELECT place AS at FROM places WHERE place BETWEEN ? AND ? ORDER BY place DESC LIMIT ? OFFSET ?"
            asked: tuple[object, ...] = bounds
        else:
            found = (
                "SELECT rowid AS at FROM words WHERE words MATCH ? AND rowid BETWEEN ? AND ? "
                "ORDER BY rowid DESC LIMIT ? OFFSET ?"
            )
            asked = (query.match, *bounds)
        rows = self._connection().execute(
            f"SELECT place, entry FROM ({found}) JOIN told ON place = at ORDER BY at DESC",  # noqa: S608
            asked,
        )
        return [(place, Entry.model_validate_json(entry)) for place, entry in rows]

    def count(self, query: Query) -> int:
        """How many pictures a search finds."""
        if query.match is None:
            found = "SELECT count(*) FROM places WHERE place BETWEEN ? AND ?"
            row = self._connection().execute(found, (query.oldest, query.newest)).fetchone()
        else:
            found = "SELECT count(*) FROM words WHERE words MATCH ? AND rowid BETWEEN ? AND ?"
            row = self._connection().execute(found, (query.match, query.oldest, query.newest)).fetchone()
        return int(row[0])

    def entry(self, job: str) -> Entry | None:
        """What is known of a job."""
        found = self._connection().execute("SELECT entry FROM told NATURAL JOIN places WHERE job = ?", (job,))
        row = found.fetchone()
        return Entry.model_validate_json(row[0]) if row else None

    def noted(self, name: str) -> str | None:
        return _noted(self._connection(), name)

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection to the file that is there now: it may have been made anew."""
        file = self._path.stat().st_ino
        if getattr(self._own, "file", None) != file:
            self._own.connection = sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=_WAIT_SECONDS)
            self._own.file = file
        connection: sqlite3.Connection = self._own.connection
        return connection


def is_damage(error: sqlite3.Error) -> bool:
    """Whether a file is of no use any more; not that it is held, or that the disk is full."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGED


def _is_whole(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")


def _noted(connection: sqlite3.Connection, name: str) -> str | None:
    row = connection.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
    return str(row[0]) if row else None
