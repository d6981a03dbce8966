"""What keeps the index: one thread that follows the ledger's events, and makes it from the bucket where it is missing.

It notes how far it has come, in events and in batches, together with what it learnt: killed at any moment it goes on
from there. Of several servers of one home one keeps the index, and the next one does when that has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from farm import keys
from farm.bucket.fetch import read_result
from farm.bucket.manifest import ManifestJob, batches_in, read_manifest
from farm.bucket.storage import Storage
from farm.client import FarmClient
from farm.client.forget import forgotten_of
from farm.errors import FarmError, InvalidInput, ObjectDamaged, ObjectMissing, ObjectTooLarge
from farm.host import homes
from farm.ledger.ledger import Ledger
from farm.ledger.records import Event
from farm.web.index.database import Writer, is_damage
from farm.web.index.entry import Entry
from farm.web.index.position import Position

log = logging.getLogger("farm.web")

BUCKET, _CURSOR, _MADE = "bucket", "cursor", "made"
"""Notes: whose pictures they are; up to which event they are known; down to which batch, or `ALL`."""
ALL = "all"
_AT_ONCE = 4
_PIECE = 200
_WAIT_SECONDS = 1.0
_AGAIN_SECONDS = 2.0


@dataclass(frozen=True)
class Making:
    """How far the index has been made: so many batches of those in the bucket; of 0 while they are counted."""

    done: int
    of: int


class Feeder:
    """Keeps the index in `path` while it runs. `making` says how far it is made, until it is."""

    def __init__(self, client: FarmClient, path: Path, *, afresh: bool = False) -> None:
        self._client, self._path, self._afresh = client, path, afresh
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="web-index")
        self._stop = threading.Event()
        self._lock: int | None = None
        self._writer: Writer | None = None
        self._position = Position()
        self._doubted = False
        self._pieces: Iterator[None] | None = None
        self._told: str | None = None
        self.bucket: str | None = None
        """The id of the farm's bucket, once it is known: an index of another is not to be shown."""
        self.making: Making | None = None
        self._thread = threading.Thread(target=self._run, name="web-index-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ask it to end; `is_busy` until it has."""
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def look(self) -> None:
        """See whether the file is whole: somebody could not read it."""
        self._doubted = True

    @property
    def is_ready(self) -> bool:
        """Whether what has happened until a moment ago is in the index."""
        return not self._position.is_lost and self._pieces is None

    @property
    def is_busy(self) -> bool:
        return self._thread.is_alive()

    def catch_up(self, *, within: float) -> None:
        """Wait until all that has happened by now is in the index, for `within` seconds at the most.

        There is nothing to wait for while a server is away, or where another process keeps the index.
        """
        if not self._position.is_lost:
            with contextlib.suppress(FarmError):
                self._position.wait_for(self._client.ledger.now(), within=within)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self.turn()
                    self._told = None
                except Exception as error:  # whatever it is, the index is not worth the site
                    self._position.come_to(None)
                    self._pieces = None
                    if self._stop.is_set():
                        return
                    self._tell(error)
                    self._stop.wait(_AGAIN_SECONDS)
        finally:
            self._let_go()

    def turn(self, *, wait: float = _WAIT_SECONDS) -> None:
        """One turn: what has happened meanwhile, and another piece of what is not known yet. Waits for so many seconds
        for something to do.

        Raises `FarmError` where a server is away, and `sqlite3.Error` where the file cannot be written.
        """
        if not (self._knows_bucket() and self._may_write()):
            self._stop.wait(wait)
            return
        try:
            if self._doubted and self._writer:
                self._writer.close()
                self._writer = self._pieces = None
                self._position.come_to(None)
                self._doubted = False
            writer = self._writer = self._writer or self._opened()
            self._follow(writer, wait)
            if self._pieces is not None:
                next(self._pieces, None)
        except sqlite3.DatabaseError as error:
            if is_damage(error) and self._writer:
                log.warning("the index of pictures was damaged, and is made anew: %s", error)
                self._writer.empty()
            raise

    def _knows_bucket(self) -> bool:
        if self.bucket is None:
            self._client.check_bucket(only_to_read=True)
            tie = self._client.ledger.tie()
            self.bucket = tie.id if tie else None
        return self.bucket is not None

    def _may_write(self) -> bool:
        """Whether this is the one of this home's servers that keeps the index."""
        if self._lock is None:
            homes.prepare(self._path.parent)
            descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            self._lock = descriptor
        return True

    def _opened(self) -> Writer:
        writer = Writer(self._path)
        if self._afresh:
            writer.empty()
            self._afresh = False
        return writer

    def _follow(self, writer: Writer, wait: float) -> None:
        """Write down what has happened since the last time; begin to read the bucket where that is not known."""
        ledger = self._client.ledger
        if self._position.is_lost:
            self._begin(writer, ledger)
        cursor = writer.noted(_CURSOR) or ledger.now()
        self._position.come_to(cursor)
        events = ledger.events(cursor, wait=0.0 if self._pieces else wait)
        if not events:
            return
        entries = self._finished(ledger, [event.job for event in events if event.state == "done"])
        with writer.whole():
            writer.remove(_gone(events))  # first: a batch may have been submitted again under its id
            writer.put(entries)
            writer.note(_CURSOR, events[-1].cursor)
        self._position.come_to(events[-1].cursor)

    def _begin(self, writer: Writer, ledger: Ledger) -> None:
        """See whether the file is this farm's, and whether events have been missed."""
        assert self.bucket is not None
        self.making = Making(0, 0)  # said before anybody may read the file, and until it is known what is in the bucket
        if writer.noted(BUCKET) not in (None, self.bucket):
            writer.empty()
        cursor = writer.noted(_CURSOR)
        if cursor is None or ledger.changed_since(cursor) is None:
            with writer.whole():
                writer.note(BUCKET, self.bucket)
                writer.note(_CURSOR, ledger.now())
                writer.note(_MADE, "")
        self._pieces = None if writer.noted(_MADE) == ALL else self._from_bucket(writer)
        if self._pieces is None:
            self.making = None

    def _finished(self, ledger: Ledger, jobs: Sequence[str]) -> Sequence[Entry]:
        """Entries of those of the jobs that are done."""
        done = [status for status in ledger.get_many(list(dict.fromkeys(jobs))) if status.result]
        return self._entries({status.id: (status.result or "", status.labels) for status in done})

    def _entries(self, wanted: Mapping[str, tuple[str, dict[str, str]]]) -> Sequence[Entry]:
        """Entries of jobs, from the keys of their results and their labels. What is not there is left out."""
        storage = self._client.storage
        read = self._pool.map(lambda job: _entry(storage, job, *wanted[job]), wanted)
        return [entry for entry in read if entry]

    def _from_bucket(self, writer: Writer) -> Iterator[None]:
        """Make the index from the bucket, the newest batch first, piece by piece. What is gone is removed."""
        batches = sorted(batches_in(self._client.storage), reverse=True)
        made = writer.noted(_MADE) or ""
        newer = made or (batches[0] if batches else "")
        for number, batch in enumerate(batches):
            self.making = Making(number, len(batches))
            if made and batch >= made:
                continue
            yield from self._batch(writer, batch)
            with writer.whole():
                writer.remove_between(batch, newer)
                writer.note(_MADE, batch)
            newer = batch
        with writer.whole():
            writer.remove_between("", newer)
            writer.note(_MADE, ALL)
        writer.tidy()
        self.making = self._pieces = None

    def _batch(self, writer: Writer, batch: str) -> Iterator[None]:
        storage = self._client.storage
        try:
            manifest = {job.id: job for job in read_manifest(storage, batch).jobs}
        except ObjectMissing:  # it has gone this very moment
            manifest = {}
        except (InvalidInput, ObjectTooLarge) as error:
            log.warning("the index may lack pictures of batch %s: %s", batch, error)
            return
        forgotten = forgotten_of(storage, batch)
        jobs = [job for job in manifest if job not in forgotten.on_purpose]
        known = writer.jobs_of(batch)
        with writer.whole():
            writer.remove(known.difference(jobs))
        unknown = [job for job in jobs if job not in known or job in forgotten.expired]
        for start in range(0, len(unknown), _PIECE):
            piece = unknown[start : start + _PIECE]
            entries = self._entries(self._results([manifest[job] for job in piece]))
            with writer.whole():
                writer.remove(piece)
                writer.put(entries)
            yield

    def _results(self, jobs: Sequence[ManifestJob]) -> dict[str, tuple[str, dict[str, str]]]:
        """Where the results of jobs are: as the ledger says, or where it knows nothing, as the bucket is to have it."""
        statuses = {status.id: status for status in self._client.ledger.get_many([job.id for job in jobs])}
        found = {}
        for job in jobs:
            status = statuses.get(job.id)
            key = keys.result(job.id) if status is None else status.result
            if key:
                found[job.id] = (key, job.labels)
        return found

    def _tell(self, error: Exception) -> None:
        """Say what keeps the index from being kept, once."""
        said = str(error)
        if said == self._told:
            return
        self._told = said
        if isinstance(error, FarmError | sqlite3.Error | OSError):
            log.warning("the index of pictures waits: %s", said)
        else:
            log.exception("a fault of the farm's in the index of pictures")

    def _let_go(self) -> None:
        writer, lock, self._writer, self._lock = self._writer, self._lock, None, None
        if writer:
            writer.close()
        if lock is not None:
            os.close(lock)


def _entry(storage: Storage, job: str, key: str, labels: dict[str, str]) -> Entry | None:
    try:
        result = read_result(storage, key)
    except (ObjectMissing, ObjectDamaged, ObjectTooLarge):
        return None
    if result.job != job:
        return None
    return Entry.of(result, key=keys.attempt_result(job, result.attempt), labels=labels)


def _gone(events: Iterable[Event]) -> Iterator[str]:
    for event in events:
        yield from event.gone
