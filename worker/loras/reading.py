"""A LoRA file, read for a model: `.safetensors` alone, which runs no code.

Its header is judged before any of its numbers is read, and every product is tried on tensors without numbers first, so
that a file that does not fit costs neither memory nor time.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from farm.errors import ModelError
from farm.keys import PICKLED_WEIGHTS
from farm.lora_keys import MAX_RANK, UNET, parse
from farm.words import one_line
from worker.diffusion.adapters import Adapter, Factors
from worker.loras.factors import ALPHA, Unfit, factors_of, rank_of
from worker.loras.layers import Layer, layers_of
from worker.loras.strengths import Settings, settings_of
from worker.models.disguises import unreadable
from worker.models.kinds import told
from worker.models.model import LoadedModel
from worker.models.weights import Shapes

_log = logging.getLogger(__name__)

MAX_BYTES = 4 * 2**30
"""Of a file, and of the factors that are made of it."""
_MAX_HEADER_BYTES = 16 * 2**20
_MAX_WEIGHTS = 50_000
_HEADER = 8
_FEW = 3
_TYPES = ("F32", "F16", "BF16", "F64")
_WHOLE = ("I64", "I32", "I16", "I8", "U8")
"""As some programs write alpha."""
_NUMBER = 4  # bytes in float32
_CONVERT = "look for the same as .safetensors"
_OF_ANOTHER = (
    "use it with a model like the one that it was trained for, or leave it out; 'farm loras' says what each is for"
)


@dataclass
class _Found:
    """What a file says of a layer: the names and shapes of its weights, by part."""

    layer: Layer
    names: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    rank: int | None = None


def read_adapter(path: Path, name: str, sha256: str, model: LoadedModel) -> Adapter:
    """What the file at `path` adds to the layers of `model`, to be known as `name`; `sha256` is taken as given.

    Read are LoRA, LoCon, LoHa, LoKr and DoRA as kohya's scripts, LyCORIS, diffusers and PEFT write them. The adapter's
    mappings are by paths whose `get_submodule` has the weight: those of projections of a prompt in the UNet end in
    `.projection` (see `worker.loras.layers.Layer`). Weights that are for no layer of the model are told in it
    and logged, in one line, if they are fewer than half.

    Raises `ModelError` saying what is wrong with the file, or that it is not for the model. Nothing is half read.
    """
    _check_size(path, name)
    with _opened(path) as file:
        return _read(file, name, sha256, model)


@dataclass(frozen=True)
class _File:
    """An open file of safetensors. What goes wrong in the library is a `ModelError` that says what the file is."""

    path: Path
    handle: Any

    def keys(self) -> list[str]:
        return list(self.handle.keys())

    def metadata(self) -> Mapping[str, str]:
        return self.handle.metadata() or {}

    def kind(self, weight: str) -> str:
        kind: str = self.handle.get_slice(weight).get_dtype()
        return kind

    def shape(self, weight: str) -> tuple[int, ...]:
        return tuple(self.handle.get_slice(weight).get_shape())

    def tensor(self, weight: str) -> Tensor:
        try:
            tensor: Tensor = self.handle.get_tensor(weight)
        except Exception as error:  # SafetensorError is a plain Exception, and there are others
            raise unreadable(self.path, error) from error
        return tensor.to(torch.float32, copy=True)


@contextmanager
def _opened(path: Path) -> Iterator[_File]:
    try:
        file: Any = safe_open(path, framework="pt")
    except Exception as error:  # as above
        raise unreadable(path, error) from error
    with file as handle:
        yield _File(path, handle)


def _check_size(path: Path, name: str) -> None:
    if path.suffix.lower() in PICKLED_WEIGHTS:
        raise ModelError(f"the LoRA '{name}' is pickled, and so could run code", hint=_CONVERT)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = int.from_bytes(file.read(_HEADER), "little")
    except OSError as error:
        raise ModelError(f"the LoRA '{name}' cannot be read: {error.strerror}") from error
    if size > MAX_BYTES:
        raise ModelError(f"the LoRA '{name}' has {size:,} bytes, more than {MAX_BYTES:,}", hint="is it a whole model?")
    if _MAX_HEADER_BYTES < header <= size:
        raise ModelError(f"the LoRA '{name}' has a header of {header:,} bytes, more than {_MAX_HEADER_BYTES:,}")


def _read(file: _File, name: str, sha256: str, model: LoadedModel) -> Adapter:
    keys = file.keys()
    if len(keys) > _MAX_WEIGHTS:
        raise ModelError(f"the LoRA '{name}' names {len(keys):,} weights, more than {_MAX_WEIGHTS:,}")
    found, unfit = _sorted(name, {key: file.shape(key) for key in keys}, model)
    try:
        settings = settings_of(file.metadata())
    except ValueError as error:
        raise ModelError(f"the settings in the header of the LoRA '{name}' cannot be read: {error}") from error
    _try(name, found, model)
    made: dict[str, dict[str, Factors]] = defaultdict(dict)
    for one in found:
        try:
            made[one.layer.owner][one.layer.path] = _made(file, one, settings)
        except ValueError as error:
            raise _wrong(name, one.layer, error) from error
    encoders = tuple(made.get(part.folder, {}) for part in model.family.encoders)
    return Adapter(name, sha256, made.get(UNET, {}), encoders, unfit)


def _sorted(name: str, shapes: Shapes, model: LoadedModel) -> tuple[list[_Found], str | None]:
    """What a file says of each layer of a model, and which of its weights are for none.

    Raises `ModelError` if it says little of them, or something twice.
    """
    layers = layers_of(model)
    found: dict[Layer, _Found] = {}
    strange: list[str] = []
    for weight, shape in shapes.items():
        key = parse(weight)
        layer = layers.get((key.owner, key.layer)) if key else None
        if key is None or layer is None:
            strange.append(weight)
            continue
        one = found.setdefault(layer, _Found(layer))
        if key.part in one.names:
            raise ModelError(
                f"the LoRA '{name}' has both {_shown(one.names[key.part])} and {_shown(weight)}, which are for the "
                f"{key.part} of one layer"
            )
        one.names[key.part], one.shapes[key.part] = weight, shape
    for layer, one in list(found.items()):
        if set(one.names) == {ALPHA}:  # of a layer that was taken out
            strange.append(found.pop(layer).names[ALPHA])
    if not found and not any(parse(weight) for weight in shapes):
        raise ModelError(f"the LoRA '{name}' is {told(shapes)}", hint="LoRA, LoCon, LoHa, LoKr and DoRA are read")
    said = f"{len(strange):,} of its {len(shapes):,} weights are for no layer of it: {_some(strange)}"
    if len(strange) * 2 >= len(shapes):
        raise ModelError(f"the LoRA '{name}' is not for the model '{model.name}': {said}", hint=_OF_ANOTHER)
    if not strange:
        return list(found.values()), None
    _log.warning("the LoRA '%s' is used in part with the model '%s': %s", name, model.name, said)
    return list(found.values()), said


def _try(name: str, found: Iterable[_Found], model: LoadedModel) -> None:
    """Raise `ModelError` for shapes that do not fit the layers, and for factors that would be enormous."""
    total = 0
    for one in found:
        try:
            one.rank = rank_of(one.shapes)
            if one.rank is not None and one.rank > MAX_RANK:
                raise ValueError(f"a rank of {one.rank:,} is more than {MAX_RANK:,}")
            empty = {part: torch.empty(shape, device="meta") for part, shape in one.shapes.items() if part != ALPHA}
            factors = factors_of(empty, 1.0, torch.empty(one.layer.weight.shape, device="meta"))
        except Unfit as error:
            raise ModelError(
                f"the LoRA '{name}' does not fit the model '{model.name}', at {_called(one.layer)}: {error}; it is "
                f"{_shown(one.names[error.part])} in the file",
                hint=_OF_ANOTHER,
            ) from error
        except ValueError as error:
            raise _wrong(name, one.layer, error) from error
        total += (factors.down.numel() + factors.up.numel()) * _NUMBER
        if total > MAX_BYTES:
            raise ModelError(
                f"the LoRA '{name}' would take more than {MAX_BYTES / 2**30:.0f} GiB of memory with the model "
                f"'{model.name}'",
                hint="merge it into the model elsewhere, and add that",
            )


def _made(file: _File, one: _Found, settings: Settings) -> Factors:
    parts = {part: _numbers(file, weight) for part, weight in one.names.items() if part != ALPHA}
    alpha = None
    if ALPHA in one.names and one.rank is not None:
        if torch.Size(one.shapes[ALPHA]).numel() != 1:
            raise ValueError(f"its alpha has the shape {one.shapes[ALPHA]}")
        alpha = float(_tensor(file, one.names[ALPHA], of=(*_TYPES, *_WHOLE)))
    factors = factors_of(parts, settings.scale(one.layer, alpha, one.rank), one.layer.weight)
    if not all(bool(tensor.isfinite().all()) for tensor in (factors.down, factors.up)):
        raise ValueError("what it comes to is too large for a number")
    return Factors(
        factors.down.contiguous(),
        factors.up.contiguous(),
        None if factors.magnitude is None else factors.magnitude.contiguous(),
    )


def _numbers(file: _File, weight: str) -> Tensor:
    """A weight in float32. Raises `ValueError` for numbers that no factor has."""
    tensor = _tensor(file, weight, of=_TYPES)
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{_shown(weight)} has numbers that are not finite")
    return tensor


def _tensor(file: _File, weight: str, *, of: Sequence[str]) -> Tensor:
    if (kind := file.kind(weight)) not in of:
        raise ValueError(f"{_shown(weight)} is of {kind}, and not of float32, float16 or bfloat16")
    return file.tensor(weight)


def _wrong(name: str, layer: Layer, error: ValueError) -> ModelError:
    return ModelError(f"the LoRA '{name}' is wrong about {_called(layer)}: {error}")


def _called(layer: Layer) -> str:
    return f"{layer.name} of the {'UNet' if layer.owner == UNET else layer.owner.replace('_', ' ')}"


def _some(weights: Sequence[str]) -> str:
    return ", ".join(map(_shown, sorted(weights)[:_FEW])) + (", …" if len(weights) > _FEW else "")


def _shown(weight: str) -> str:
    return repr(one_line(weight)[:100])
