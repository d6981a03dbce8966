"""The LoRAs that the farm keeps: adding one, and removing one that no job waits for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from farm import keys
from farm.bucket.loras import LORA_FILE, LORAS, StoredLora
from farm.bucket.shelf import KeptFile
from farm.bucket.storage import Storage
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
class Added:
    """A LoRA that the farm keeps now, and how many bytes had to be sent for that."""

    lora: StoredLora
    sent: int


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
    """Keep the LoRA in the file `source` in the farm under a name.

    The same once more changes nothing, unless it is sent `again`: that mends what is damaged in the bucket. The file
    that another takes the place of stays as long as jobs wait for it.

    Raises `InvalidInput` for a file that is no LoRA or changes meanwhile, `WrongState` if the farm has another LoRA of
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
            source=str(local.path)[:1_000],
            added=datetime.now(UTC),
            files=files,
        )

    keeper = Keeper(ledger, storage, LORAS, needed=lambda: _waited_for(ledger))
    return Added(*keeper.add({LORA_FILE: local.path}, described, replace=replace, again=again, progress=progress))


def remove(ledger: Ledger, storage: Storage, name: str, *, force: bool = False) -> Removed:
    """Keep a LoRA no longer. Its file goes, unless another name has the same.

    Raises `ModelError` if there is none, `WrongState` if jobs that are not over name its file (unless forced to),
    `StorageError`, `LedgerUnavailable`.
    """

    def refuse(blobs: Mapping[str, int]) -> None:
        waiting = 0 if force else sum(not blobs.keys().isdisjoint(_files_of(spec)) for spec in _not_over(ledger))
        if waiting:
            raise WrongState(
                f"{waiting:,} {'job waits' if waiting == 1 else 'jobs wait'} for the LoRA '{name}'",
                hint="wait for them, 'farm cancel' them, or remove it with --force",
            )

    return Keeper(ledger, storage, LORAS).remove(name, refuse=refuse)


def _waited_for(ledger: Ledger) -> Collection[str]:
    """The files, by SHA-256, that jobs name which are not over."""
    return {sha256 for spec in _not_over(ledger) for sha256 in _files_of(spec)}


def _files_of(spec: JobSpec) -> set[str]:
    return {use.sha256 for use in spec.loras if use.sha256}


def _not_over(ledger: Ledger) -> Collection[JobSpec]:
    """What all jobs render that wait or are being rendered."""
    jobs = dict.fromkeys(job for state in _NOT_OVER for job in ledger.newest(state=state, limit=_ALL))
    return ledger.specs(list(jobs)).values()
