"""The LoRAs that the farm keeps: adding one, and removing one that no job waits for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from farm import keys
from farm.bucket.loras import LORA_FILE, LORAS, StoredLora
from farm.bucket.shelf import KeptFile
from farm.bucket.storage import Storage
from farm.client.given import GivenFile
from farm.client.keeping import Keeper, Progress, Removed
from farm.client.lora_files import look_at
from farm.errors import WrongState
from farm.jobs.spec import JobSpec
from farm.jobs.status import State
from farm.ledger.ledger import Ledger

_NOT_OVER: tuple[State, ...] = ("queued", "running", "queued")
"""In this order no job is overlooked that goes from one to the other meanwhile, whichever way."""
_ALL = 2**31


@dataclass(frozen=True)
class FileBefore:
    """A file that a name had, by its SHA-256, and the names that have it still.

    Once it is `deleted`, pictures made with it cannot be made again.
    """

    sha256: str
    deleted: bool
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Added:
    """A LoRA that the farm keeps now, how many bytes had to be sent for that, and the file that it is in place of."""

    lora: StoredLora
    sent: int
    before: FileBefore | None = None


@dataclass(frozen=True)
class RemovedLora(Removed):
    """A LoRA that the farm keeps no longer, its file unless nobody can tell, and how many jobs waited for that."""

    before: FileBefore | None
    waiting: int


def add(
    ledger: Ledger,
    storage: Storage,
    name: str,
    source: str | GivenFile,
    *,
    replace: bool = False,
    again: bool = False,
    progress: Progress | None = None,
) -> Added:
    """Keep the LoRA in the file `source` in the farm under a name.

    The same once more changes nothing, unless it is sent `again`: that mends what is damaged in the bucket. The file
    that another takes the place of stays as long as jobs wait for it.

    Raises `InvalidInput` for a file that is no LoRA or changes meanwhile, `NameTaken` if the farm has another LoRA of
    that name (unless it is to `replace` it), `StorageError`, `LedgerUnavailable`.
    """
    keys.lora_name(name)
    local = look_at(source)

    def described(files: dict[str, KeptFile]) -> StoredLora:
        return StoredLora(
            name=name,
            kind=local.kind,
            ranks=local.ranks[:1_000],
            unet=local.unet,
            text=local.text,
            title=local.title,
            base=local.base,
            short_hash=local.short_hash,
            source=local.file.source[:1_000],
            added=datetime.now(UTC),
            files=files,
        )

    files, keeper = {LORA_FILE: local.file.path}, _keeper(ledger, storage)
    kept, sent, other = keeper.add(files, described, replace=replace, again=again, progress=progress)
    return Added(kept, sent, _now_of(storage, other.file.sha256) if other else None)


def remove(ledger: Ledger, storage: Storage, name: str, *, force: bool = False) -> RemovedLora:
    """Keep a LoRA no longer. Its file goes, unless another name has the same.

    Raises `ModelError` if there is none, `WrongState` if jobs that are not over need its file (unless forced to),
    `StorageError`, `LedgerUnavailable`.
    """

    waiting, file = 0, None

    def refuse(blobs: Mapping[str, int]) -> None:
        nonlocal waiting, file
        file = next(iter(blobs), None)
        if file is None or _names_of(storage, file) != (name,):  # it stays, for another has it too
            return
        waiting = sum(file in _files_of(spec) for spec in _not_over(ledger))
        if waiting and not force:
            raise WrongState(
                f"{waiting:,} {'job waits' if waiting == 1 else 'jobs wait'} for the LoRA '{name}'",
                hint="wait for them, 'farm cancel' them, or remove it with --force",
            )

    removed = _keeper(ledger, storage).remove(name, refuse=refuse)
    return RemovedLora(name, removed.freed, _now_of(storage, file) if file else None, waiting)


def _keeper(ledger: Ledger, storage: Storage) -> Keeper[StoredLora]:
    return Keeper(ledger, storage, LORAS, needed=lambda: _waited_for(ledger))


def _now_of(storage: Storage, sha256: str) -> FileBefore:
    """What became of a file that a name has no longer."""
    key = keys.lora_blob(sha256)
    return FileBefore(sha256, not any(stored.key == key for stored in storage.list(key)), _names_of(storage, sha256))


def _names_of(storage: Storage, sha256: str) -> tuple[str, ...]:
    every = (kept for kept in LORAS.everything(storage) if isinstance(kept, StoredLora))
    return tuple(sorted(kept.name for kept in every if kept.file.sha256 == sha256))


def _waited_for(ledger: Ledger) -> Collection[str]:
    """The files, by SHA-256, that jobs name which are not over."""
    return {sha256 for spec in _not_over(ledger) for sha256 in _files_of(spec)}


def _files_of(spec: JobSpec) -> set[str]:
    return {use.sha256 for use in spec.loras if use.sha256}


def _not_over(ledger: Ledger) -> Collection[JobSpec]:
    """What all jobs render that wait or are being rendered."""
    jobs = dict.fromkeys(job for state in _NOT_OVER for job in ledger.newest(state=state, limit=_ALL))
    return ledger.specs(list(jobs)).values()
