"""Files of textual inversion: which there are, and what is in them. Weights as safetensors alone, which run no code.

| in the file | of |
| --- | --- |
| `emb_params` | Stable Diffusion, as A1111 saves them |
| one tensor under the word itself | Stable Diffusion, as diffusers saves them (`learned_embeds.safetensors`) |
| `clip_l` and `clip_g` | SDXL |
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from farm.disguises import CONVERT
from farm.errors import FarmError, InvalidInput, ModelError
from farm.keys import PICKLED_WEIGHTS, WEIGHTS
from worker.diffusion.inversion import Embedding
from worker.models.disguises import unreadable
from worker.models.model import LoadedModel
from worker.models.registry import Source

_log = logging.getLogger(__name__)

MAX_EMBEDDINGS = 1_000
_MAX_VECTORS = 75
"""A chunk's: an embedding is not parted."""
_MAX_WIDTH = 4_096
_MAX_HEADER_BYTES = 64 * 2**10
_MAX_BYTES = 8 * 2**20
_MAX_TENSORS = 4
_HEADER = 8
_NAME = re.compile(r"\w[\w.+-]{0,63}")
_OF_SDXL = ("clip_l", "clip_g")
_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def load_embeddings(given: Iterable[str], folders: Iterable[Path]) -> tuple[Embedding, ...]:
    """The embeddings given as `NAME=FILE`, and those of all files of weights in folders, called as the files are.

    A file in a folder that cannot be read is logged, and the others are read. Raises `InvalidInput` and `ModelError`
    for what is given by name and cannot be had, and for more than `MAX_EMBEDDINGS`.
    """
    found: dict[str, Embedding] = {}
    named: set[str] = set()
    for folder in folders:
        for path in _files(folder):
            try:
                embedding = read_embedding(path.stem, path)
            except FarmError as error:
                _log.warning("an embedding is left out: %s", error)
            else:
                found[embedding.name.lower()] = embedding
    for text in given:
        name, equals, file = text.partition("=")
        if not (equals and file):
            raise InvalidInput(
                f"{text!r:.80} is not NAME=FILE", field="--embedding", hint="such as bad=bad.safetensors"
            )
        if name.lower() in named:
            raise InvalidInput(f"'{name}' is there twice", field="--embedding", hint="give each a name of its own")
        named.add(name.lower())
        found[name.lower()] = read_embedding(name, Path(file))
    if len(found) > MAX_EMBEDDINGS:
        raise InvalidInput(f"there are {len(found):,}, more than {MAX_EMBEDDINGS:,}", field="--embeddings")
    return tuple(found.values())


def with_embeddings(
    load: Callable[[str, Source], LoadedModel], embeddings: Collection[Embedding], name: str, source: Source
) -> LoadedModel:
    """The model `name`, the prompts of which may name the embeddings that are for it; others are logged."""
    model = load(name, source)
    for embedding, reason in model.prompts.learn(embeddings).items():
        _log.warning("the embedding '%s' is not for the model '%s': %s", embedding, name, reason)
    return model


def read_embedding(name: str, path: Path) -> Embedding:
    """The embedding in a file, to be called `name`. Raises `InvalidInput`, and `ModelError` saying what is wrong."""
    if not _NAME.fullmatch(name):
        reason = f"{name!r:.80} cannot be the name of an embedding"
        raise InvalidInput(reason, field="--embedding", hint="letters, digits, _ . + and -, at most 64")
    if path.suffix.lower() in PICKLED_WEIGHTS:
        raise ModelError(f"the embedding {path} is pickled, and so could run code", hint=CONVERT)
    tensors = _tensors(path)
    if set(tensors) == set(_OF_SDXL):
        vectors = [_vectors(path, part, tensors[part]) for part in _OF_SDXL]
        if len(vectors[0]) != len(vectors[1]):
            raise ModelError(f"the embedding {path} has {len(vectors[0])} and {len(vectors[1])} vectors")
        return Embedding(name, tuple(vectors))
    if len(tensors) == 1 and not set(tensors) & set(_OF_SDXL):
        return Embedding(name, tuple(_vectors(path, part, tensor) for part, tensor in tensors.items()))
    held = ", ".join(f"{part!r:.40}" for part in sorted(tensors)[:_MAX_TENSORS]) or "nothing"
    raise ModelError(
        f"the embedding {path} holds {held}", hint="one tensor is of Stable Diffusion, clip_l and clip_g are of SDXL"
    )


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() == WEIGHTS and path.is_file())
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be read: {error.strerror}", field="--embeddings") from error


def _tensors(path: Path) -> Mapping[str, Tensor]:
    """The few tensors of a small file; shapes and types are looked at before any of them is read."""
    _check_size(path)
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if len(names) > _MAX_TENSORS:
                raise ModelError(f"the embedding {path} holds {len(names)} tensors", hint="is it a model, or a LoRA?")
            return {name: file.get_tensor(name) for name in names}
    except ModelError:
        raise
    except Exception as error:  # SafetensorError is a plain Exception, and there are others
        raise unreadable(path, error) from error


def _check_size(path: Path) -> None:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = int.from_bytes(file.read(_HEADER), "little")
    except OSError as error:
        raise ModelError(f"the embedding {path} cannot be read: {error.strerror}") from error
    if size > _MAX_BYTES:
        reason = f"the embedding {path} has {size:,} bytes, more than {_MAX_BYTES:,}"
        raise ModelError(reason, hint="is it a model, or a LoRA?")
    if _MAX_HEADER_BYTES < header <= size:
        raise ModelError(f"the embedding {path} has a header of {header:,} bytes, more than {_MAX_HEADER_BYTES:,}")


def _vectors(path: Path, part: str, tensor: Tensor) -> Tensor:
    """A tensor as [count, width] in float32. Raises `ModelError` if it cannot be of an embedding."""
    shape = tuple(tensor.shape)
    if tensor.dtype not in _TYPES:
        raise ModelError(f"{part!r:.40} of the embedding {path} is of {str(tensor.dtype).removeprefix('torch.')}")
    if not (len(shape) in (1, 2) and 1 <= shape[-1] <= _MAX_WIDTH and 1 <= tensor.numel() // shape[-1] <= _MAX_VECTORS):
        raise ModelError(
            f"{part!r:.40} of the embedding {path} has the shape {shape}",
            hint=f"[vectors, width], of 1 to {_MAX_VECTORS} vectors",
        )
    vectors = tensor.float().reshape(-1, shape[-1])
    if not bool(vectors.isfinite().all()):
        raise ModelError(f"{part!r:.40} of the embedding {path} has numbers that are not finite")
    return vectors
