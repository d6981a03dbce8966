"""What the farm keeps: adding something, and removing it without taking anything from another.

What is in files is sent once, by its SHA-256, and the manifest last: so something is there whole or not at all, and
what was sent before an interruption is not sent again. Whoever writes a manifest, or deletes what no manifest names,
holds a lock for that moment: nothing is deleted that a manifest written meanwhile names.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Generic, Protocol

from farm.bucket.shelf import K, KeptFile, Shelf
from farm.bucket.storage import Storage
from farm.errors import InvalidInput, ModelError, NameTaken, ObjectDamaged, WrongState
from farm.ledger.ledger import Ledger
from farm.ledger.records import new_token

ABANDONED = timedelta(days=1)
"""What an interrupted addition sent is kept for so long, for the next try."""

_LOCK_SECONDS = 120.0
_LOOK_SECONDS = 0.2
_CHUNK = 2**20


class Progress(Protocol):
    """Somebody who is told how far an addition has got."""

    def begin(self, what: str, total: int) -> None:
        """What comes now has so many bytes in all."""

    def advance(self, number: int) -> None:
        """So many more of them are done. Called from several threads."""


class Unwatched:
    """Nobody."""

    def begin(self, what: str, total: int) -> None: ...

    def advance(self, number: int) -> None: ...


@dataclass(frozen=True)
class Removed:
    """What the farm keeps no longer, and how many bytes that nothing else has were deleted."""

    name: str
    freed: int


@dataclass(frozen=True)
class Keeper(Generic[K]):
    """Adds to a shelf of the farm and removes from it.

    `needed` gives the SHA-256 of files that are of use though no manifest names them: those are not deleted.
    """

    ledger: Ledger
    storage: Storage
    shelf: Shelf[K]
    needed: Callable[[], Collection[str]] = tuple

    def add(
        self,
        local: Mapping[str, Path],
        described: Callable[[dict[str, KeptFile]], K],
        *,
        replace: bool,
        again: bool,
        progress: Progress | None,
    ) -> tuple[K, int, K | None]:
        """Keep what is in files, by their names in the farm, as `described` from what is in them.

        Returns what the farm has then, how many bytes had to be sent for that, and what else had the name before. The
        same once more changes nothing, unless all of it is sent `again`: that mends what is damaged in the bucket.

        Raises `InvalidInput` for a file that changes meanwhile, `NameTaken` if the farm has another of that name
        (unless it is to `replace` it), `StorageError`, `LedgerUnavailable`.
        """
        watcher = progress or Unwatched()
        before = self._marks(local.values())
        watcher.begin("reading", sum(size for size, _ in before))
        wanted = described({name: self._hashed(path, watcher) for name, path in local.items()})
        kept = self._kept(wanted.name)
        if kept is None or kept.fingerprint != wanted.fingerprint:
            self._refuse_another(kept, replace)
        missing, sent = wanted.blobs if again else self._missing(wanted.blobs), 0
        while True:
            sent += self._send(missing, wanted, local, watcher)
            if self._marks(local.values()) != before:
                raise self._changed(wanted, local)
            with self._alone() as hold:
                if missing := self._missing(wanted.blobs):  # removed a moment ago, with something that had it too
                    continue
                now, other = self._put_in_place(wanted, hold, replace=replace, again=again)
                return now, sent, other

    def remove(self, name: str, *, refuse: Callable[[Mapping[str, int]], None]) -> Removed:
        """Keep something no longer. What is in its files goes, as far as nothing else has it.

        `refuse` may raise, and is told what is in its files. Raises `ModelError` if there is none of the name,
        `StorageError`, `LedgerUnavailable`.
        """
        try:
            blobs: Mapping[str, int] = self.shelf.read(self.storage, name).blobs
        except ObjectDamaged:
            blobs = {}
        refuse(blobs)
        with self._alone() as hold:
            self.storage.delete(self.shelf.manifest(name))
            return Removed(name, self._sweep(blobs, hold, needed=set(self.needed()) - blobs.keys()))

    def _hashed(self, path: Path, watcher: Progress) -> KeptFile:
        hashing, size = hashlib.sha256(), 0
        try:
            with path.open("rb") as file:
                while data := file.read(_CHUNK):
                    hashing.update(data)
                    size += len(data)
                    watcher.advance(len(data))
        except OSError as error:
            raise self._unreadable(path, error) from error
        return KeptFile(sha256=hashing.hexdigest(), size=size)

    def _send(self, blobs: Mapping[str, int], wanted: K, local: Mapping[str, Path], watcher: Progress) -> int:
        """Send some of what is in the files of `wanted`. Returns its bytes."""
        where = {file.sha256: local[name] for name, file in wanted.files.items()}
        if blobs:
            watcher.begin("sending", sum(blobs.values()))
        for sha256 in blobs:
            try:
                self.storage.upload(self.shelf.blob(sha256), where[sha256], sent=watcher.advance)
            except OSError as error:
                raise self._unreadable(where[sha256], error) from error
        return sum(blobs.values())

    def _missing(self, blobs: Mapping[str, int]) -> dict[str, int]:
        """Those of the blobs that are not in the bucket, or not whole."""
        there = {stored.key: stored.size for stored in self.storage.list(self.shelf.blobs)}
        return {sha256: size for sha256, size in blobs.items() if there.get(self.shelf.blob(sha256)) != size}

    def _kept(self, name: str) -> K | None:
        """What has that name, or None: a manifest that is damaged is replaced as if it were not there."""
        if name not in self.shelf.manifests(self.storage):
            return None
        try:
            return self.shelf.read(self.storage, name)
        except (ModelError, ObjectDamaged):
            return None

    def _refuse_another(self, kept: K | None, replace: bool) -> None:
        if kept is not None and not replace:
            raise NameTaken(
                f"the farm has another {self.shelf.what} '{kept.name}', from {kept.source}",
                hint="choose another name, or put this one in its place with --replace",
            )

    def _put_in_place(self, wanted: K, hold: Callable[[], None], *, replace: bool, again: bool) -> tuple[K, K | None]:
        """Write a manifest whose files are all there, in place of what the farm has by that name.

        Returns what it has then: that which it had, if that is the same and is not to be written `again`. And what it
        had before, if that was another.
        """
        now = self._kept(wanted.name)
        if now is not None and now.fingerprint == wanted.fingerprint and not again:
            return now, None
        self._refuse_another(now, replace or again)
        hold()
        self.shelf.write(self.storage, wanted)
        if now is not None:
            self._sweep(now.blobs, hold, needed=self.needed())
        return wanted, now if now is not None and now.fingerprint != wanted.fingerprint else None

    def _sweep(self, blobs: Iterable[str], hold: Callable[[], None], *, needed: Collection[str] = ()) -> int:
        """Delete those of the `blobs` that no manifest names, and what was sent long ago for one that never came.

        Returns their bytes. As long as a manifest cannot be read nobody knows what it names, and nothing is deleted.
        """
        named = {self.shelf.blob(sha256) for sha256 in needed}
        for kept in self.shelf.everything(self.storage):
            if isinstance(kept, ObjectDamaged):
                return 0
            named |= {self.shelf.blob(sha256) for sha256 in kept.blobs}
        ours = {self.shelf.blob(sha256) for sha256 in blobs}
        long_ago = datetime.now(UTC) - ABANDONED
        freed = 0
        for stored in list(self.storage.list(self.shelf.blobs)):
            is_abandoned = stored.modified is not None and stored.modified < long_ago
            if stored.key not in named and (stored.key in ours or is_abandoned):
                hold()
                self.storage.delete(stored.key)
                freed += stored.size
        return freed

    @contextmanager
    def _alone(self) -> Iterator[Callable[[], None]]:
        """Hold the lock of manifests for the block, and for longer by calling what this gives. Raises `WrongState`."""
        lock, holder, give_up = f"{self.shelf.what}s".lower(), new_token(), time.monotonic() + 2 * _LOCK_SECONDS

        def hold() -> None:
            if not self.ledger.try_lock(lock, holder, seconds=_LOCK_SECONDS):
                raise WrongState(f"somebody else adds or removes a {self.shelf.what}", hint="try again in a moment")

        while not self.ledger.try_lock(lock, holder, seconds=_LOCK_SECONDS):
            if time.monotonic() > give_up:
                hold()
            time.sleep(_LOOK_SECONDS)
        try:
            yield hold
        finally:
            self.ledger.try_lock(lock, holder, seconds=0.001)  # it lapses at once

    def _marks(self, paths: Iterable[Path]) -> list[tuple[int, int]]:
        """What changes when files are written to: the size of each, and when it was last."""
        try:
            return [(found.st_size, found.st_mtime_ns) for found in (path.stat() for path in paths)]
        except OSError as error:
            raise self._unreadable(Path(error.filename), error) from error

    def _changed(self, wanted: K, local: Mapping[str, Path]) -> InvalidInput:
        """Take back what was sent of files that were written to meanwhile: it may not be what its key says."""
        for name, file in wanted.files.items():
            if self._hashed(local[name], Unwatched()) != file:
                self.storage.delete(self.shelf.blob(file.sha256))
        return InvalidInput(
            f"{wanted.source} was written to while it was read", field=self.shelf.added_from, hint="add it again"
        )

    def _unreadable(self, path: Path, error: OSError) -> InvalidInput:
        return InvalidInput(f"{path} cannot be read: {error.strerror}", field=self.shelf.added_from)
