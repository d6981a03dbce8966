"""What is in the files of the farm's models and LoRAs, on this machine's disk: fetched once, checked, and bounded.

    blobs/<sha256>        what is in a file; `<sha256>.part` while it is being fetched
    using/<process>-<…>   what is being loaded: which blobs it is made of
    lock                  held by whoever makes room, and for a moment by whoever begins to use something

All workers of a machine share the folder. Locks are the kernel's, so those of a worker that was killed go with it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from farm.bucket.models import MODELS
from farm.bucket.shelf import KeptFile, Shelf
from farm.bucket.storage import Storage
from farm.errors import ModelError, ModelUnavailable, ObjectMissing, ObjectTooLarge
from worker.bucket.locks import is_abandoned, locked_file, try_lock

_log = logging.getLogger(__name__)

GB = 10**9
_TRIES = 2
_LEFT_FREE = 256 * 2**20
"""Bytes of the disk that are left to others."""
_PART = ".part"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Files(Protocol):
    """Something that the farm keeps: its name, the files that it consists of by theirs, and its bytes."""

    @property
    def name(self) -> str: ...

    @property
    def files(self) -> Mapping[str, KeptFile]: ...

    @property
    def blobs(self) -> Mapping[str, int]: ...

    @property
    def size(self) -> int: ...


class ModelCache:
    """A folder of at most `most_bytes`, but for what is being loaded: least recently used out first.

    Things of several shelves can share a folder, which is then bounded for them together.
    """

    def __init__(self, folder: Path, storage: Storage, most_bytes: int, shelf: Shelf[Any] = MODELS) -> None:
        self._folder = folder
        self._blobs, self._using = folder / "blobs", folder / "using"
        self._storage = storage
        self._most_bytes = most_bytes
        self._shelf = shelf

    def of(self, shelf: Shelf[Any]) -> ModelCache:
        """The same folder for things of another shelf."""
        return ModelCache(self._folder, self._storage, self._most_bytes, shelf)

    @contextmanager
    def opened(self, model: Files) -> Iterator[Path]:
        """A folder with the model's files for the time of the block, in which none of them is removed.

        Raises `ModelUnavailable` where there is no room, `ModelError` for what is damaged or gone in the bucket, and
        `StorageError` while the bucket is away.
        """
        with ExitStack() as until_used:
            try:
                for folder in (self._blobs, self._using):
                    folder.mkdir(parents=True, exist_ok=True)
                until_used.enter_context(self._in_use(model.blobs))
                self._bring(model)
                links = Path(until_used.enter_context(tempfile.TemporaryDirectory(prefix="farm-model-")))
                for name, file in model.files.items():
                    link = links / name
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(self._blob(file.sha256).absolute())
            except OSError as error:
                reason = error.strerror or error
                raise ModelUnavailable(
                    f"the {self._shelf.what} '{model.name}' cannot be kept in {self._folder}: {reason}",
                    hint="is there room on that disk?" if error.errno in _FULL else None,
                ) from error
            yield links

    def mend(self, model: Files) -> bool:
        """Remove what is not what it should be, to be fetched again. Whether there was any."""
        damaged = [sha256 for sha256 in model.blobs if self._is_damaged(sha256)]
        for sha256 in damaged:
            _log.warning(
                "a file of the %s '%s' was damaged on this disk: it is fetched again", self._shelf.what, model.name
            )
            self._blob(sha256).unlink(missing_ok=True)
        return bool(damaged)

    def keep(self, models: Iterable[Files]) -> None:
        """Note that models are still of use, so that others go before them."""
        for sha256 in {sha256 for model in models for sha256 in model.blobs}:
            try:
                os.utime(self._blob(sha256))
            except OSError:
                continue

    def _blob(self, sha256: str) -> Path:
        return self._blobs / sha256

    def _is_damaged(self, sha256: str) -> bool:
        try:
            with self._blob(sha256).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() != sha256
        except FileNotFoundError:
            return False
        except OSError:
            return True

    # Fetching

    def _bring(self, model: Files) -> None:
        """Make sure that all of a model is on the disk."""
        missing = {sha256: size for sha256, size in model.blobs.items() if not self._is_there(sha256, size)}
        self.keep([model])
        if not missing:
            return
        if model.size > self._most_bytes:
            raise ModelError(
                f"the {self._shelf.what} '{model.name}' has {model.size / GB:.1f} GB, and the cache only "
                f"{self._most_bytes / GB:g}",
                hint="give it more with --model-cache-gb",
            )
        self._make_room(model, sum(missing.values()))
        _log.info("fetching the %s '%s': %.1f MB", self._shelf.what, model.name, sum(missing.values()) / 1e6)
        for sha256, size in missing.items():
            self._fetch(model, sha256, size)

    def _is_there(self, sha256: str, size: int) -> bool:
        try:
            return self._blob(sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    def _fetch(self, model: Files, sha256: str, size: int) -> None:
        """Fetch a blob, unless another worker of this machine does it meanwhile."""
        with locked_file(self._blob(f"{sha256}{_PART}")) as (part, file):
            if self._is_there(sha256, size):
                part.unlink()
                return
            try:
                for _ in range(_TRIES):
                    if self._came_whole(sha256, size, file):
                        part.replace(self._blob(sha256))
                        return
                    _log.warning("a file of the %s '%s' came damaged from the bucket", self._shelf.what, model.name)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            part.unlink()
        raise ModelError(
            f"a file of the {self._shelf.what} '{model.name}' is damaged in the bucket: {self._shelf.blob(sha256)}",
            hint=f"mend it: '{self._shelf.command} add --again {model.name}={self._shelf.added_from}'",
        )

    def _came_whole(self, sha256: str, size: int, file: IO[bytes]) -> bool:
        file.seek(0)
        file.truncate()
        hashing = _Hashing(file)
        try:
            self._storage.copy(self._shelf.blob(sha256), hashing, limit=size)
        except ObjectTooLarge:
            return False
        except ObjectMissing as error:
            raise ModelError(
                f"a file of a {self._shelf.what} is not in the bucket: {self._shelf.blob(sha256)}",
                hint=f"was the {self._shelf.what} removed? '{self._shelf.command} add' brings it back",
            ) from error
        file.flush()
        os.fsync(file.fileno())
        return hashing.hexdigest() == sha256

    # Room

    @contextmanager
    def _in_use(self, blobs: Iterable[str]) -> Iterator[None]:
        """Let nobody remove these for the time of the block. Afterwards there may be more than is allowed."""
        path = self._using / f"{os.getpid()}-{secrets.token_hex(4)}"
        with ExitStack() as until_used:
            with self._locked(fcntl.LOCK_SH):  # nobody who makes room sees it without its own lock
                file = until_used.enter_context(path.open("x", encoding="utf-8"))
                until_used.callback(path.unlink, missing_ok=True)
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write("\n".join(blobs))
                file.flush()
            yield

    def _in_use_anywhere(self) -> set[str]:
        """The blobs that workers use now. What one left that was killed is cleared away."""
        found: set[str] = set()
        for path in self._using.iterdir():
            try:
                with path.open(encoding="utf-8") as file:
                    if try_lock(file):
                        path.unlink(missing_ok=True)
                    else:
                        found |= set(file.read().split())
            except FileNotFoundError:
                continue
        return found

    def _make_room(self, model: Files, needed: int) -> None:
        """Remove what was used the longest ago until so many bytes more are allowed, and fit onto the disk."""
        with self._locked(fcntl.LOCK_EX):
            kept = self._in_use_anywhere()
            there = sorted(self._all(), key=lambda blob: blob[1].st_mtime)
            total = sum(found.st_size for _, found in there)
            free = shutil.disk_usage(self._blobs).free - _LEFT_FREE
            for path, found in there:
                if total + needed <= self._most_bytes and needed <= free:
                    return
                if path.name not in kept and (not path.name.endswith(_PART) or is_abandoned(path)):
                    path.unlink(missing_ok=True)
                    total -= found.st_size
                    free += found.st_size
            if needed > free:
                raise ModelUnavailable(
                    f"the {self._shelf.what} '{model.name}' needs {needed:,} bytes more, but {self._folder} has room "
                    f"for only {max(0, free):,}",
                    hint="make room on that disk",
                )

    def _all(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self._blobs.iterdir():
            try:
                yield path, path.stat()
            except FileNotFoundError:
                continue

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        with (self._folder / "lock").open("ab") as file:
            fcntl.flock(file, kind)
            yield


class _Hashing:
    """Writes into a file and hashes on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, data: bytes, /) -> None:
        self._hash.update(data)
        self._file.write(data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
