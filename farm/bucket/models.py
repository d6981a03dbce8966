"""The models that the farm keeps: what is in their files once, by content, and a small manifest for each name.

`models/blobs/<sha256>` is what is in a file, `models/<name>.json` which files a model consists of. A manifest is
written when all that it names is there, so a model is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from farm import keys
from farm.bucket.storage import Storage
from farm.errors import InvalidInput, ModelError, ObjectDamaged, ObjectMissing, ObjectTooLarge
from farm.jobs.faults import invalid
from farm.jobs.spec import ModelName

Layout = Literal["folder", "file"]
Kind = Literal["sd", "sd1", "sd2", "sdxl"]
"""What architecture a model seems to be of, by the width of the texts that its UNet reads; `sd` of any other width."""

_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,119}"
FILE_NAME = rf"^{_SEGMENT}(/{_SEGMENT}){{0,2}}$"
MAX_FILES = 1_000
MAX_FILE_BYTES = 64 * 2**30
MAX_MANIFEST_BYTES = 2**20


class ModelFile(BaseModel):
    """A file of a model: the SHA-256 of what is in it, and its size in bytes."""

    model_config = ConfigDict(frozen=True)

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]


class StoredModel(BaseModel):
    """`models/<name>.json`. `files` maps names below the model's folder to what is in them."""

    model_config = ConfigDict(frozen=True)

    version: int = 1
    name: ModelName
    layout: Layout
    kind: Kind = "sd"
    source: Annotated[str, StringConstraints(max_length=1_000)]
    added: AwareDatetime
    files: Annotated[
        dict[Annotated[str, StringConstraints(pattern=FILE_NAME)], ModelFile], Field(min_length=1, max_length=MAX_FILES)
    ]

    @model_validator(mode="after")
    def _is_of_its_layout(self) -> Self:
        if self.layout == "file" and keys.MODEL_FILE not in self.files:
            raise ValueError(f"it has no {keys.MODEL_FILE}")
        return self

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
        """A SHA-256 that differs wherever two models' files do, whatever they are called and whoever added them."""
        said = [self.layout, sorted((name, file.sha256) for name, file in self.files.items())]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def read_model(storage: Storage, name: str) -> StoredModel:
    """The model that the farm keeps under a name.

    Raises `ModelError` if it keeps none, `ObjectDamaged` for a manifest that is none, and `StorageError`.
    """
    key = keys.model_manifest(name)
    try:
        model = StoredModel.model_validate_json(storage.get(key, limit=MAX_MANIFEST_BYTES))
    except ObjectMissing as error:
        if name in keys.BUILT_IN_MODELS:
            raise ModelError(f"'{name}' comes with the farm, which does not keep it in its bucket") from error
        raise ModelError(
            f"the farm keeps no model '{name}'",
            hint=f"'farm models add {name}=SOURCE' adds it; 'farm models' lists them",
        ) from error
    except ValidationError as error:
        raise ObjectDamaged(f"{key} is not a model's manifest: {invalid(error)}") from error
    except ObjectTooLarge as error:
        raise ObjectDamaged(
            f"{key} is not a model's manifest: it has more than {MAX_MANIFEST_BYTES:,} bytes"
        ) from error
    if model.name != name:
        raise ObjectDamaged(f"{key} is the manifest of another model, {model.name}")
    return model


def manifests(storage: Storage) -> dict[str, str]:
    """The names of all models that the farm keeps, each with a tag that changes with its manifest."""
    found = ((keys.model_of_manifest(stored.key), stored.tag) for stored in storage.list(keys.MODELS, deep=False))
    return {name: tag for name, tag in found if name is not None}


def stored_models(storage: Storage) -> Iterator[StoredModel | ObjectDamaged]:
    """Every model that the farm keeps, by name; of a manifest that is none, what is wrong. Raises `StorageError`."""
    for name in manifests(storage):
        try:
            yield read_model(storage, name)
        except ModelError:  # removed in the meantime
            continue
        except ObjectDamaged as error:
            yield error


def write_model(storage: Storage, model: StoredModel) -> None:
    """Make a model known, whose blobs are there. Raises `InvalidInput` if it has too many files, `StorageError`."""
    data = model.model_dump_json(indent=2).encode()
    if len(data) > MAX_MANIFEST_BYTES:
        raise InvalidInput(f"the manifest of '{model.name}' has more than {MAX_MANIFEST_BYTES:,} bytes")
    storage.put(keys.model_manifest(model.name), data, "application/json")
