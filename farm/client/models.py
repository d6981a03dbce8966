"""The models that the farm keeps: adding one, and removing one without taking anything from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from farm import keys
from farm.bucket.models import MODELS, StoredModel
from farm.bucket.shelf import KeptFile
from farm.bucket.storage import Storage
from farm.client.given import GivenFile
from farm.client.keeping import Keeper, Progress, Removed
from farm.client.model_files import look_at
from farm.errors import InvalidInput, WrongState
from farm.ledger.ledger import Ledger


@dataclass(frozen=True)
class Added:
    """A model that the farm keeps now, and how many bytes had to be sent for that."""

    model: StoredModel
    sent: int


def check_name(name: str) -> None:
    """Raise `InvalidInput` for what cannot be the name of a model that the farm keeps."""
    if keys.model_name(name) in keys.BUILT_IN_MODELS:
        raise InvalidInput(f"'{name}' is a model that comes with the farm", field="NAME", hint="choose another name")


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
    """Keep the model in `source`, a folder or one file or one that is given, in the farm under a name.

    The same once more changes nothing, unless all of it is sent `again`: that mends what is damaged in the bucket.

    Raises `InvalidInput` for a source that is no model or changes meanwhile, `NameTaken` if the farm has another model
    of that name (unless it is to `replace` it), `StorageError`, `LedgerUnavailable`.
    """
    check_name(name)
    local = look_at(source)

    def described(files: dict[str, KeptFile]) -> StoredModel:
        return StoredModel(
            name=name,
            layout=local.layout,
            kind=local.kind,
            source=local.source[:1_000],
            options=dict(local.options),
            added=datetime.now(UTC),
            files=files,
        )

    keeper = Keeper(ledger, storage, MODELS)
    kept, sent, _ = keeper.add(local.files, described, replace=replace, again=again, progress=progress)
    return Added(kept, sent)


def remove(ledger: Ledger, storage: Storage, name: str, *, force: bool = False) -> Removed:
    """Keep a model no longer. What is in its files goes, as far as no other model has it.

    Raises `ModelError` if there is none, `WrongState` if jobs wait for it (unless forced to), `StorageError`,
    `LedgerUnavailable`.
    """

    def refuse(_: Mapping[str, int]) -> None:
        if not force and (waiting := ledger.waiting(name)):
            raise WrongState(
                f"{waiting:,} {'job waits' if waiting == 1 else 'jobs wait'} for the model '{name}'",
                hint="wait for them, 'farm cancel' them, or remove it with --force",
            )

    return Keeper(ledger, storage, MODELS).remove(name, refuse=refuse)
