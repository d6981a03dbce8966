"""An autoencoder in a file of its own, to take the place of a model's: under diffusers' names or the original ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

from farm.errors import ModelError
from worker.models import kinds
from worker.models.disguises import first_line
from worker.models.filling import Named, check, fill
from worker.models.weights import Shapes, as_meta, read_shapes, read_tensors

_PART = "autoencoder"
_PREFIXES = (kinds.VAE, "vae.")
_ALWAYS = "decoder.conv_in.weight"
_AS_DIFFUSERS = "decoder.up_blocks."
_OLD = re.compile(r"(?<=\.attentions\.0\.)(query|key|value|proj_attn)(?=\.)")
_NEW: Mapping[str, str] = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names that diffusers had before 2023."""


@dataclass(frozen=True)
class Autoencoder:
    """A file that holds an autoencoder, alone or among other weights, by its header."""

    path: Path
    shapes: Shapes
    prefix: str

    def check(self, module: Any) -> None:
        """Raise `ModelError` unless a model's autoencoder can have its weights. The module may be without any."""
        with self._refusing():
            check(_PART, module, self._converted(module, as_meta(self.shapes)))

    def fill(self, module: Any, dtype: torch.dtype) -> None:
        """Give a model's autoencoder these weights, in a precision. Raises `ModelError` as `check`."""
        weights = read_tensors(self.path, [key for key in self.shapes if key.startswith(self.prefix)])
        with self._refusing():
            fill(_PART, module, self._converted(module, weights), dtype)

    def _converted(self, module: Any, weights: Named) -> Named:
        bare = {key.removeprefix(self.prefix): value for key, value in weights.items() if key.startswith(self.prefix)}
        return named_as_diffusers(bare, module.config)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except ModelError:
            raise
        except Exception as error:  # what the libraries make of files that are not as they should be
            raise ModelError(
                f"the autoencoder {self.path} cannot be loaded: {first_line(error)}",
                hint="use one that was made for this kind of model; those of Stable Diffusion 3 and Flux are others",
            ) from error


def read_autoencoder(path: Path) -> Autoencoder:
    """The autoencoder in a file. Raises `ModelError` saying what it is instead."""
    shapes = read_shapes(path)
    for prefix in (*_PREFIXES, ""):
        if prefix + _ALWAYS in shapes:
            return Autoencoder(path, shapes, prefix)
    raise ModelError(
        f"{path} is {kinds.told(shapes)}, not an autoencoder",
        hint="behind #vae= belongs a file that holds an autoencoder (VAE)",
    )


def named_as_diffusers(weights: Named, config: Mapping[str, Any]) -> Named:
    """An autoencoder's weights under the names that diffusers has for them, from those or from the original ones."""
    if not any(key.startswith(_AS_DIFFUSERS) for key in weights):
        converted: Named = convert_ldm_vae_checkpoint(weights, dict(config))
        return converted
    return {_OLD.sub(lambda old: _NEW[old[0]], key): value for key, value in weights.items()}
