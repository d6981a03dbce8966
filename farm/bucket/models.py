"""The models that the farm keeps: `models/<name>.json` says which files one consists of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from farm import keys, sources
from farm.bucket.shelf import FILE_NAME as FILE_NAME
from farm.bucket.shelf import MAX_FILES as MAX_FILES
from farm.bucket.shelf import Kept, Shelf
from farm.errors import InvalidInput
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

Option = Annotated[str, StringConstraints(max_length=255)]
_OPTION = r"^(vae|prediction|ztsnr)$"


class StoredModel(Kept):
    """A model's manifest. Its files have names below the model's folder.

    `options` are those of its source that say something of the model (see `farm.sources`); of a file for `vae`, which
    is among its files then, the name that people gave it.
    """

    name: ModelName
    layout: Layout
    kind: Kind = "sd"
    options: dict[Annotated[str, StringConstraints(pattern=_OPTION)], Option] = Field(default={})

    @model_validator(mode="after")
    def _is_of_its_layout(self) -> Self:
        if self.layout == "file" and keys.MODEL_FILE not in self.files:
            raise ValueError(f"it has no {keys.MODEL_FILE}")
        return self

    @model_validator(mode="after")
    def _has_what_its_options_say(self) -> Self:
        if ("vae" in self.options) != (keys.MODEL_VAE in self.files):
            raise ValueError(f"{keys.MODEL_VAE} and the option 'vae' go together")
        try:
            sources.check_words(self.options)
        except InvalidInput as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def fingerprint(self) -> str:
        """A SHA-256 that differs wherever two models do, whatever they are called and whoever added them."""
        said: list[Any] = [self.layout, sorted((name, file.sha256) for name, file in self.files.items())]
        if words := sorted((name, word) for name, word in self.options.items() if name != "vae"):
            said.append(words)
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
