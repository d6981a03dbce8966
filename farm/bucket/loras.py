"""The LoRAs that the farm keeps: `loras/<name>.json` says which file one is, and what its header tells."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from farm import keys
from farm.bucket.models import Kind
from farm.bucket.shelf import Kept, KeptFile, Shelf
from farm.jobs.loras import LoraName, ShortHash

LORA_FILE = "lora.safetensors"
"""What the one file of a LoRA is called among its files."""


_Word = Annotated[str, StringConstraints(max_length=200)]
_ANY_WIDTH: Kind = "sd"


class StoredLora(Kept):
    """A LoRA's manifest: for which `kind` of models it is (`sd`: not known), its `ranks`, ascending, whether it acts on
    the UNet and on text encoders, and its trainer's words: a `title`, and the `base` that it was trained on."""

    name: LoraName
    kind: Kind = _ANY_WIDTH
    ranks: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=1_000)] = ()
    unet: bool = True
    text: bool = False
    title: _Word | None = None
    base: _Word | None = None
    short_hash: ShortHash

    @model_validator(mode="after")
    def _is_one_file(self) -> Self:
        if set(self.files) != {LORA_FILE}:
            raise ValueError(f"it is not of one file, {LORA_FILE}")
        return self

    @property
    def file(self) -> KeptFile:
        return self.files[LORA_FILE]

    @property
    def fingerprint(self) -> str:
        return self.file.sha256

    def fits(self, model: Kind) -> bool:
        """Whether models of a kind may be what it is for. A worker sees what their layers are like."""
        return self.kind in (_ANY_WIDTH, model)


LORAS = Shelf(
    what="LoRA",
    kind=StoredLora,
    command="farm loras",
    added_from="FILE",
    prefix=keys.LORAS,
    blobs=keys.LORA_BLOBS,
    manifest=keys.lora_manifest,
    blob=keys.lora_blob,
    named_by=keys.lora_of_manifest,
)
