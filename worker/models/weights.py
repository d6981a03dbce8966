"""Which files hold weights, and what is in them: names and shapes from their headers, before any weight is read.

Only plain files of the name `*.safetensors` in a component's own folder are ever given to the libraries, whatever an
index of shards says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from farm import layouts
from farm.errors import ModelError
from worker.models.disguises import first_line, unreadable

_MAX_WEIGHTS = 50_000
"""SDXL's checkpoints name 2,515, and some 4,200 with averages."""
_MAX_INDEX_BYTES = 16 * 2**20

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Weights:
    """A component's files of weights by the names under which they are found; `index`, of shards, maps weights to
    those names."""

    files: Mapping[str, Path]
    index: Mapping[str, str] | None = None

    def count(self) -> int:
        """How many numbers they hold. Raises `ModelError` for a file that is not safetensors."""
        return sum(math.prod(shape) for path in self.files.values() for shape in read_shapes(path).values())


def find(name: str, directory: Path, part: str) -> Weights:
    """The weights in the folder of a part of the model `name`, in the model's `directory`.

    Raises `ModelError` if there are none, or shards that are missing or not in the folder.
    """
    folder = directory / part
    names = {path.name for path in folder.iterdir() if path.is_file()}
    found = layouts.chosen(names, layouts.STEMS[part])
    if not found:
        raise fault_in(name, directory, layouts.without_weights(part, names))
    if not found[0].endswith(".json"):
        return Weights({found[0]: folder / found[0]})
    index = _read_index(name, folder / found[0])
    if fault := layouts.astray(part, index, names):
        raise fault_in(name, directory, fault)
    weights = Weights({shard: folder / shard for shard in sorted(set(index.values()))}, index)
    held = {shard: read_shapes(path).keys() for shard, path in weights.files.items()}
    if fault := layouts.lost(part, index, held):  # the libraries would believe the index
        raise fault_in(name, directory, fault)
    return weights


def fault_in(name: str, directory: Path, fault: layouts.Fault) -> ModelError:
    """The error to raise for what is wrong with the model `name` in a directory."""
    said, hint = fault
    return ModelError(f"the model '{name}' in {directory} {said}", hint=hint)


def read_shapes(path: Path) -> Shapes:
    """The shapes of all weights in a file. Raises `ModelError` saying what it is instead of safetensors, or that it
    names more weights than any model has."""
    try:
        with safe_open(path, framework="pt") as file:
            keys = file.keys()
            if len(keys) > _MAX_WEIGHTS:
                raise ValueError(f"it names {len(keys):,} weights, and no model has more than {_MAX_WEIGHTS:,}")
            return {key: tuple(file.get_slice(key).get_shape()) for key in keys}
    except Exception as error:  # SafetensorError is a plain Exception, and there are others
        raise unreadable(path, error) from error


def read_tensors(path: Path, keys: Iterable[str]) -> dict[str, Tensor]:
    """Weights in a file. Raises `ModelError` as `read_shapes`."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in keys}
    except Exception as error:  # as above
        raise unreadable(path, error) from error


def as_meta(shapes: Shapes) -> dict[str, Tensor]:
    """Tensors of these shapes without any numbers, to see what would become of them."""
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def _read_index(name: str, path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_INDEX_BYTES + 1)
        if len(data) > _MAX_INDEX_BYTES:
            raise ValueError("it is too large")
        return layouts.shards_by_weight(json.loads(data))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(f"{path} of the model '{name}' is not an index of shards: {first_line(error)}") from error
