"""Which files hold weights, and what is in them: names and shapes from their headers, before any weight is read.

Only plain files of the name `*.safetensors` in a component's own folder are ever given to the libraries, whatever an
index of shards says.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from farm.disguises import CONVERT
from farm.errors import ModelError
from farm.keys import PICKLED_WEIGHTS, WEIGHTS
from worker.models.disguises import first_line, unreadable

STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
"""What the weights of each component are called, before marks and endings. No family has others."""

_MARKS = ("", ".fp16")
_SHARD = re.compile(r"\w[\w.-]*\.safetensors")
_MAX_SHARDS = 1_000
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


def chosen(names: Collection[str], stem: str) -> tuple[str, ...]:
    """The files among `names` that hold a component's weights: in full precision rather than in half, in one file
    rather than in shards, and of shards the index first. Empty if there are none."""
    for mark in _MARKS:
        if (whole := f"{stem}{mark}.safetensors") in names:
            return (whole,)
        for index in (f"{stem}.safetensors.index{mark}.json", f"{stem}{mark}.safetensors.index.json"):
            if index in names:
                number, marked = r"-\d+-of-\d+", re.escape(mark)
                shard = re.compile(rf"{stem}({marked}{number}|{number}{marked})\.safetensors")
                return (index, *sorted(name for name in names if shard.fullmatch(name)))
    return ()


def weights_among(files: Collection[str]) -> list[str]:
    """Of a model's files the weights that are loaded, in one precision each."""
    found: list[str] = []
    for component, stem in STEMS.items():
        names = {file.removeprefix(f"{component}/") for file in files if file.startswith(f"{component}/")}
        found += [f"{component}/{name}" for name in chosen(names, stem)]
    return found


def find(name: str, directory: Path, stem: str) -> Weights:
    """The weights in a component's folder of the model `name`.

    Raises `ModelError` if there are none, or shards that are missing or not in the folder.
    """
    names = {path.name for path in directory.iterdir() if path.is_file()}
    found = chosen(names, stem)
    if not found:
        raise _nothing(name, directory, names, stem)
    if not found[0].endswith(".json"):
        return Weights({found[0]: directory / found[0]})
    index = _read_index(name, directory / found[0])
    shards = set(index.values())
    if strange := sorted(shard for shard in shards if not _SHARD.fullmatch(shard)):
        raise ModelError(
            f"{directory / found[0]} of the model '{name}' names {strange[0]!r:.80}",
            hint="shards are .safetensors files in the folder of their index",
        )
    if missing := sorted(shards - names):
        raise ModelError(
            f"the model '{name}' lacks {len(missing)} of {len(shards)} shards in {directory}, such as {missing[0]}",
            hint="fetch it again",
        )
    weights = Weights({shard: directory / shard for shard in sorted(shards)}, index)
    held = {shard: read_shapes(path).keys() for shard, path in weights.files.items()}
    if lost := sorted(key for key, shard in index.items() if key not in held[shard]):
        raise ModelError(  # the libraries would believe the index
            f"{directory / index[lost[0]]} of the model '{name}' lacks {lost[0]!r:.80}, which its index says is there",
            hint="fetch it again",
        )
    return weights


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


def _nothing(name: str, directory: Path, names: Collection[str], stem: str) -> ModelError:
    pickled = sorted(found for found in names if found.lower().endswith(PICKLED_WEIGHTS))
    if others := sorted(found for found in names if found.lower().endswith(WEIGHTS)):
        return ModelError(
            f"the model '{name}' has no {stem}.safetensors in {directory}, but {others[0]}",
            hint=f"weights are called {stem}.safetensors or {stem}.fp16.safetensors, or are shards with their index",
        )
    if pickled:
        return ModelError(
            f"the model '{name}' has only pickled weights in {directory} ({pickled[0]}), which can run code",
            hint=CONVERT,
        )
    return ModelError(f"the model '{name}' has no .safetensors weights in {directory}")


def _read_index(name: str, path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_INDEX_BYTES + 1)
        if len(data) > _MAX_INDEX_BYTES:
            raise ValueError("it is too large")
        content: Any = json.loads(data)
        index = dict(content["weight_map"])
        if not all(isinstance(shard, str) for shard in index.values()):
            raise ValueError("its shards are not named by strings")
        if not 1 <= len(set(index.values())) <= _MAX_SHARDS:
            raise ValueError(f"it names {len(set(index.values())):,} shards")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(f"{path} of the model '{name}' is not an index of shards: {first_line(error)}") from error
    return index
