"""What the farm keeps of a kind, models or LoRAs: what is in files once, by content, and a manifest for each name.

`blobs/<sha256>` is what is in a file, `<name>.json` which files something consists of. A manifest is written when all
that it names is there, so everything is there whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from farm.alike import did_you_mean
from farm.bucket.storage import Storage
from farm.errors import InvalidInput, ModelError, ObjectDamaged, ObjectMissing, ObjectTooLarge
from farm.jobs.faults import invalid

_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,119}"
FILE_NAME = rf"^{_SEGMENT}(/{_SEGMENT}){{0,2}}$"
MAX_FILES = 1_000
MAX_FILE_BYTES = 64 * 2**30
MAX_MANIFEST_BYTES = 2**20


class KeptFile(BaseModel):
    """A file of what is kept: the SHA-256 of what is in it, and its size in bytes."""

    model_config = ConfigDict(frozen=True)

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]


class Kept(BaseModel):
    """A manifest. `files` maps names of files to what is in them; `source` is where they were found."""

    model_config = ConfigDict(frozen=True)

    version: int = 1
    name: str
    source: Annotated[str, StringConstraints(max_length=1_000)]
    added: AwareDatetime
    files: Annotated[
        dict[Annotated[str, StringConstraints(pattern=FILE_NAME)], KeptFile], Field(min_length=1, max_length=MAX_FILES)
    ]

    @property
    def blobs(self) -> dict[str, int]:
        """The SHA-256 of all that is in its files, with its size in bytes: each once."""
        return {file.sha256: file.size for file in self.files.values()}

    @property
    def size(self) -> int:
        """Its bytes in the bucket."""
        return sum(self.blobs.values())

    @property
    def fingerprint(self) -> str:
        """What differs wherever the files of two do, whatever they are called and whoever added them."""
        raise NotImplementedError


K = TypeVar("K", bound=Kept)


@dataclass(frozen=True)
class Shelf(Generic[K]):
    """Where things of one kind lie, `what` they are, and which `command` adds and lists them.

    `manifest` and `blob` make the keys of a name's manifest and of what is in a file; `named_by` tells the name whose
    manifest has a key. `built_in` are names of things that come with the farm.
    """

    what: str
    kind: type[K]
    command: str
    added_from: str
    prefix: str
    blobs: str
    manifest: Callable[[str], str]
    blob: Callable[[str], str]
    named_by: Callable[[str], str | None]
    built_in: tuple[str, ...] = ()

    def read(self, storage: Storage, name: str) -> K:
        """What the farm keeps under a name.

        Raises `ModelError` if it keeps nothing, `ObjectDamaged` for a manifest that is none, and `StorageError`.
        """
        key = self.manifest(name)
        try:
            found = self.kind.model_validate_json(storage.get(key, limit=MAX_MANIFEST_BYTES))
        except ObjectMissing as error:
            raise self.lacks(name, self.manifests(storage)) from error
        except ValidationError as error:
            raise ObjectDamaged(f"{key} is not a {self.what}'s manifest: {invalid(error)}") from error
        except ObjectTooLarge as error:
            raise ObjectDamaged(
                f"{key} is not a {self.what}'s manifest: it has more than {MAX_MANIFEST_BYTES:,} bytes"
            ) from error
        if found.name != name:
            raise ObjectDamaged(f"{key} is the manifest of another {self.what}, {found.name}")
        return found

    def lacks(self, name: str, known: Collection[str]) -> ModelError:
        """The error to raise where the farm should keep something of this name, and does not: one of those that are
        `known`, or come with the farm, may be meant."""
        if name in self.built_in:
            return ModelError(f"'{name}' comes with the farm, which does not keep it in its bucket")
        otherwise = f"'{self.command} add {name}={self.added_from}' adds it; '{self.command}' lists them"
        return ModelError(
            f"the farm keeps no {self.what} {name!r:.80}",
            hint=did_you_mean([name], [*known, *self.built_in], otherwise),
        )

    def manifests(self, storage: Storage) -> dict[str, str]:
        """The names of all that the farm keeps, each with a tag that changes with its manifest."""
        found = ((self.named_by(stored.key), stored.tag) for stored in storage.list(self.prefix, deep=False))
        return {name: tag for name, tag in found if name is not None}

    def tag(self, storage: Storage, name: str) -> str | None:
        """That of one name's manifest; None if the farm keeps nothing of it."""
        key = self.manifest(name)
        return next((stored.tag for stored in storage.list(key) if stored.key == key), None)

    def everything(self, storage: Storage) -> Iterator[K | ObjectDamaged]:
        """All that the farm keeps, by name; of a manifest that is none, what is wrong. Raises `StorageError`."""
        for name in self.manifests(storage):
            try:
                yield self.read(storage, name)
            except ModelError:  # removed in the meantime
                continue
            except ObjectDamaged as error:
                yield error

    def write(self, storage: Storage, kept: K) -> None:
        """Make known what is there already. Raises `InvalidInput` if it has too many files, `StorageError`."""
        data = kept.model_dump_json(indent=2).encode()
        if len(data) > MAX_MANIFEST_BYTES:
            raise InvalidInput(f"the manifest of '{kept.name}' has more than {MAX_MANIFEST_BYTES:,} bytes")
        storage.put(self.manifest(kept.name), data, "application/json")
