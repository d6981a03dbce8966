"""The models that the farm keeps: `models/<name>.json` says which files one consists of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import model_validator

from farm import keys
from farm.bucket.shelf import FILE_NAME as FILE_NAME
from farm.bucket.shelf import MAX_FILES as MAX_FILES
from farm.bucket.shelf import Kept, Shelf
from farm.jobs.spec import ModelName

Layout = Literal["folder", "file"]
Kind = Literal["sd", "sd1", "sd2", "sdxl"]
"""What architecture a model seems to be of, by the width of the texts that its UNet reads; `sd` of any other width."""
KINDS: Mapping[Kind, str] = {
    "sd": "Stable Diffusion",
    "sd1": "Stable Diffusion 1",
    "sd2": "Stable Diffusion 2",
    "sdxl": "SDXL",
}
"""What people call them."""


class StoredModel(Kept):
    """A model's manifest. Its files have names below the model's folder."""

    name: ModelName
    layout: Layout
    kind: Kind = "sd"

    @model_validator(mode="after")
    def _is_of_its_layout(self) -> Self:
        if self.layout == "file" and keys.MODEL_FILE not in self.files:
            raise ValueError(f"it has no {keys.MODEL_FILE}")
        return self

    @property
    def fingerprint(self) -> str:
        """A SHA-256 that differs wherever two models' files do, whatever they are called and whoever added them."""
        said = [self.layout, sorted((name, file.sha256) for name, file in self.files.items())]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


MODELS = Shelf(
    what="model",
    kind=StoredModel,
    command="farm models",
    added_from="SOURCE",
    prefix=keys.MODELS,
    blobs=keys.MODEL_BLOBS,
    manifest=keys.model_manifest,
    blob=keys.model_blob,
    named_by=keys.model_of_manifest,
    built_in=keys.BUILT_IN_MODELS,
)
manifests, read_model, stored_models, write_model = MODELS.manifests, MODELS.read, MODELS.everything, MODELS.write
