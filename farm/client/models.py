"""The models that the farm keeps: adding one, and removing one without taking anything from another.

What is in files is sent once, by its SHA-256, and the manifest last: so a model is there whole or not at all, and what
was sent before an interruption is not sent again. Whoever writes a manifest, or deletes what no manifest names, holds a
lock for that moment: nothing is deleted that a manifest written meanwhile names.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from farm import keys
from farm.bucket.models import ModelFile, StoredModel, manifests, read_model, stored_models, write_model
from farm.bucket.storage import Storage
from farm.client.model_files import LocalModel, look_at
from farm.errors import InvalidInput, ModelError, ObjectDamaged, WrongState
from farm.ledger.ledger import Ledger
from farm.ledger.records import new_token

ABANDONED = timedelta(days=1)
"""What an interrupted addition sent is kept for so long, for the next try."""

_LOCK = "models"
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
class Added:
    """A model that the farm keeps now, and how many bytes had to be sent for that."""

    model: StoredModel
    sent: int


@dataclass(frozen=True)
class Removed:
    """A model that the farm keeps no longer, and how many bytes that no other model has were deleted."""

    name: str
    freed: int


def add(
    ledger: Ledger,
    storage: Storage,
    name: str,
    source: str,
    *,
    replace: bool = False,
    again: bool = False,
    progress: Progress | None = None,
) -> Added:
    """Keep the model in `source`, a folder or one file, in the farm under a name.

    The same once more changes nothing, unless all of it is sent `again`: that mends what is damaged in the bucket.

    Raises `InvalidInput` for a source that is no model or changes meanwhile, `WrongState` if the farm has another model
    of that name (unless it is to `replace` it), `StorageError`, `LedgerUnavailable`.
    """
    if keys.model_name(name) in keys.BUILT_IN_MODELS:
        raise InvalidInput(f"'{name}' is a model that comes with the farm", field="NAME", hint="choose another name")
    watcher = progress or Unwatched()
    local = look_at(source)
    before = _marks(local.files.values())
    model = _described(name, local, watcher)
    kept = _kept(storage, name)
    if kept is None or kept.fingerprint != model.fingerprint:
        _refuse_another(kept, replace)
    missing, sent = model.blobs if again else _missing(storage, model.blobs), 0
    while True:
        sent += _send(storage, missing, model, local, watcher)
        if _marks(local.files.values()) != before:
            raise _changed(storage, model, local)
        with _alone(ledger) as hold:
            if missing := _missing(storage, model.blobs):  # removed a moment ago, with a model that had it too
                continue
            return Added(_put_in_place(storage, model, hold, replace=replace, again=again), sent)


def remove(ledger: Ledger, storage: Storage, name: str, *, force: bool = False) -> Removed:
    """Keep a model no longer. What is in its files goes, as far as no other model has it.

    Raises `ModelError` if there is none, `WrongState` if jobs wait for it (unless forced to), `StorageError`,
    `LedgerUnavailable`.
    """
    key = keys.model_manifest(name)
    try:
        blobs: Mapping[str, int] = read_model(storage, name).blobs
    except ObjectDamaged:
        blobs = {}
    if not force and (waiting := ledger.waiting(name)):
        raise WrongState(
            f"{waiting:,} {'job waits' if waiting == 1 else 'jobs wait'} for the model '{name}'",
            hint="wait for them, 'farm cancel' them, or remove it with --force",
        )
    with _alone(ledger) as hold:
        storage.delete(key)
        return Removed(name, _sweep(storage, blobs, hold))


def _described(name: str, local: LocalModel, watcher: Progress) -> StoredModel:
    watcher.begin("reading", sum(path.stat().st_size for path in local.files.values()))
    files = {below: _hashed(path, watcher) for below, path in local.files.items()}
    return StoredModel(
        name=name,
        layout=local.layout,
        kind=local.kind,
        source=local.source[:1_000],
        added=datetime.now(UTC),
        files=files,
    )


def _hashed(path: Path, watcher: Progress) -> ModelFile:
    hashing, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while data := file.read(_CHUNK):
                hashing.update(data)
                size += len(data)
                watcher.advance(len(data))
    except OSError as error:
        raise _unreadable(path, error) from error
    return ModelFile(sha256=hashing.hexdigest(), size=size)


def _send(storage: Storage, blobs: Mapping[str, int], model: StoredModel, local: LocalModel, watcher: Progress) -> int:
    """Send some of what is in a model's files. Returns its bytes."""
    where = {file.sha256: local.files[name] for name, file in model.files.items()}
    if blobs:
        watcher.begin("sending", sum(blobs.values()))
    for sha256 in blobs:
        try:
            storage.upload(keys.model_blob(sha256), where[sha256], sent=watcher.advance)
        except OSError as error:
            raise _unreadable(where[sha256], error) from error
    return sum(blobs.values())


def _missing(storage: Storage, blobs: Mapping[str, int]) -> dict[str, int]:
    """Those of the blobs that are not in the bucket, or not whole."""
    there = {stored.key: stored.size for stored in storage.list(keys.MODEL_BLOBS)}
    return {sha256: size for sha256, size in blobs.items() if there.get(keys.model_blob(sha256)) != size}


def _kept(storage: Storage, name: str) -> StoredModel | None:
    """The model of that name, or None: a manifest that is damaged is replaced as if it were not there."""
    if name not in manifests(storage):
        return None
    try:
        return read_model(storage, name)
    except (ModelError, ObjectDamaged):
        return None


def _refuse_another(kept: StoredModel | None, replace: bool) -> None:
    if kept is not None and not replace:
        raise WrongState(
            f"the farm has another model '{kept.name}', from {kept.source}",
            hint="choose another name, or put this one in its place with --replace",
        )


def _put_in_place(
    storage: Storage, model: StoredModel, hold: Callable[[], None], *, replace: bool, again: bool
) -> StoredModel:
    """Write a manifest whose files are all there, in place of what the farm has by that name.

    Returns what it has then: that which it had, if that is the same and is not to be written `again`.
    """
    now = _kept(storage, model.name)
    if now is not None and now.fingerprint == model.fingerprint and not again:
        return now
    _refuse_another(now, replace or again)
    hold()
    write_model(storage, model)
    if now is not None:
        _sweep(storage, now.blobs, hold)
    return model


def _sweep(storage: Storage, blobs: Iterable[str], hold: Callable[[], None]) -> int:
    """Delete those of the `blobs` that no manifest names, and what was sent long ago for one that never came.

    Returns their bytes. As long as a manifest cannot be read nobody knows what it names, and nothing is deleted.
    """
    named: set[str] = set()
    for model in stored_models(storage):
        if isinstance(model, ObjectDamaged):
            return 0
        named |= {keys.model_blob(sha256) for sha256 in model.blobs}
    ours = {keys.model_blob(sha256) for sha256 in blobs}
    long_ago = datetime.now(UTC) - ABANDONED
    freed = 0
    for stored in list(storage.list(keys.MODEL_BLOBS)):
        is_abandoned = stored.modified is not None and stored.modified < long_ago
        if stored.key not in named and (stored.key in ours or is_abandoned):
            hold()
            storage.delete(stored.key)
            freed += stored.size
    return freed


@contextmanager
def _alone(ledger: Ledger) -> Iterator[Callable[[], None]]:
    """Hold the lock of manifests for the block, and for longer by calling what this gives. Raises `WrongState`."""
    holder, give_up = new_token(), time.monotonic() + 2 * _LOCK_SECONDS

    def hold() -> None:
        if not ledger.try_lock(_LOCK, holder, seconds=_LOCK_SECONDS):
            raise WrongState("somebody else adds or removes a model", hint="try again in a moment")

    while not ledger.try_lock(_LOCK, holder, seconds=_LOCK_SECONDS):
        if time.monotonic() > give_up:
            hold()
        time.sleep(_LOOK_SECONDS)
    try:
        yield hold
    finally:
        ledger.try_lock(_LOCK, holder, seconds=0.001)  # it lapses at once


def _marks(paths: Iterable[Path]) -> list[tuple[int, int]]:
    """What changes when files are written to."""
    try:
        return [(found.st_size, found.st_mtime_ns) for found in (path.stat() for path in paths)]
    except OSError as error:
        raise _unreadable(Path(error.filename), error) from error


def _changed(storage: Storage, model: StoredModel, local: LocalModel) -> InvalidInput:
    """Take back what was sent of files that were written to meanwhile: it may not be what its key says."""
    now = {name: _hashed(path, Unwatched()) for name, path in local.files.items()}
    for name, file in model.files.items():
        if now[name] != file:
            storage.delete(keys.model_blob(file.sha256))
    return InvalidInput(f"{local.source} was written to while it was read", field="SOURCE", hint="add it again")


def _unreadable(path: Path, error: OSError) -> InvalidInput:
    return InvalidInput(f"{path} cannot be read: {error.strerror}", field="SOURCE")
