"""A checkpoint in the layout of the original release: one file that holds all weights under their first names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_open_clip_checkpoint
from safetensors import safe_open

from farm.errors import ModelError
from farm.layouts import PARTS, hint_in_file
from worker.models import kinds
from worker.models.autoencoder import named_as_diffusers
from worker.models.ema import averaged_unet
from worker.models.filling import Named, check, fill
from worker.models.weights import Shapes, as_meta, read_shapes, read_tensors

_log = logging.getLogger(__name__)

_PROJECTION = "text_projection"
_OF_OPEN_CLIP = "model."


@dataclass(frozen=True)
class Original:
    """A file that is a checkpoint of Stable Diffusion, by its header."""

    path: Path
    shapes: Shapes
    metadata: Mapping[str, str]
    averaged: Mapping[str, str]
    """Of weights that the file has only as an average: under which name."""

    def check(self, name: str, part: str, module: Any) -> None:
        """Raise `ModelError` if the model `name` needs a part that the file has not, and `ValueError` if weights of it
        are missing or of other shapes. The module may be without any."""
        keys = self._keys(part)
        if not keys:
            raise ModelError(f"{self.path} has no {PARTS[part].title}", hint=hint_in_file(part, f"{name}={self.path}"))
        check(part, module, self._converted(part, module, as_meta({key: self.shapes[key] for key in keys})))

    def fill(self, part: str, module: Any, dtype: torch.dtype) -> None:
        """Give a component its weights, in a precision. Raises `ValueError` as `check`."""
        fill(part, module, self._converted(part, module, self.weights(self._keys(part))), dtype)

    def weights(self, keys: Iterable[str]) -> Named:
        """Weights by their first names."""
        stored = {key: self.averaged.get(key, key) for key in keys}
        read = read_tensors(self.path, stored.values())
        return {key: read[name] for key, name in stored.items()}

    def _prefix(self, part: str) -> str:
        """How a part's names begin here: as most do, for tools leave single weights of other releases behind."""
        return max(PARTS[part].prefixes, key=lambda one: sum(key.startswith(one) for key in self.shapes))

    def _keys(self, part: str) -> list[str]:
        prefix = self._prefix(part)
        return [key for key in self.shapes if key.startswith(prefix)]

    def _converted(self, part: str, module: Any, weights: Named) -> Named:
        try:
            return _CONVERSIONS[part](weights, self._prefix(part), module)
        except KeyError as error:
            raise ValueError(f"it lacks weights of the {part}, such as {error.args[0]}") from error


def read_original(path: Path) -> Original:
    """The checkpoint in a file. Raises `ModelError` if the file is anything else."""
    stored = read_shapes(path)
    averaged = averaged_unet(stored)
    if sum(key.startswith(kinds.UNET) for key in stored) >= len(averaged):
        averaged = {}  # the plain weights are all there
    else:
        _log.info("%s has the UNet's weights as their average in training (EMA), and not all as they were", path)
    shapes = {**stored, **{key: stored[name] for key, name in averaged.items()}}
    kinds.check_kind(path, shapes)
    with safe_open(path, framework="pt") as file:
        return Original(path, shapes, file.metadata() or {}, averaged)


def _unet(weights: Named, _prefix: str, module: Any) -> Named:
    converted: Named = convert_ldm_unet_checkpoint(weights, dict(module.config))
    return converted


def _vae(weights: Named, prefix: str, module: Any) -> Named:
    return named_as_diffusers({key.removeprefix(prefix): value for key, value in weights.items()}, module.config)


def _text_encoder(weights: Named, prefix: str, module: Any) -> Named:
    """The encoder of OpenAI, with or without a module inside as releases of transformers had it, or OpenCLIP's."""
    if prefix.endswith(_OF_OPEN_CLIP):
        named = convert_open_clip_checkpoint(module, weights, prefix=prefix)
        linear = prefix + f"{_PROJECTION}.weight"  # as some programs save it, already turned round
        named |= {f"{_PROJECTION}.weight": weights[linear]} if linear in weights else {}
    else:
        named = {key.removeprefix(prefix): value for key, value in weights.items()}
    inside = "text_model." if hasattr(module, "text_model") else ""
    bare = {key.removeprefix("text_model."): value for key, value in named.items()}
    return {key if key.startswith(_PROJECTION) else inside + key: value for key, value in bare.items()}


_CONVERSIONS: Mapping[str, Callable[[Named, str, Any], Named]] = {
    "unet": _unet,
    "vae": _vae,
    "text_encoder": _text_encoder,
    "text_encoder_2": _text_encoder,
}
