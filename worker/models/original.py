"""A checkpoint in the layout of the original release: one file that holds all weights under their first names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors import safe_open
from torch import Tensor

from worker.models import kinds, layout
from worker.models.weights import Shapes, read_shapes

_log = logging.getLogger(__name__)

_OPEN_CLIP = kinds.TEXT_ENCODER + "model."
_CLIP = kinds.TEXT_ENCODER + "transformer."
_V_PREDICTION, _ZERO_SNR = "v_pred", "ztsnr"
_SAID_OF_PREDICTION = "modelspec.prediction_type"
"""What programs that train models note in a file's metadata (https://github.com/Stability-AI/ModelSpec)."""

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Original:
    """A file that is a checkpoint of Stable Diffusion, by its header."""

    path: Path
    shapes: Shapes
    metadata: Mapping[str, str]

    @property
    def prediction(self) -> Mapping[str, Any]:
        """What the file says of its own noise schedule, in the words of a scheduler's configuration.

        By custom an empty tensor of the name `v_pred` marks v-prediction, as the metadata may, and one of the name
        `ztsnr` besides a zero signal-to-noise ratio at the last timestep, which is reached only by trailing spacing
        (Lin et al. 2023, arXiv:2305.08891).
        """
        if _V_PREDICTION not in self.shapes and self.metadata.get(_SAID_OF_PREDICTION) not in ("v", "v_prediction"):
            if _ZERO_SNR in self.shapes:
                _log.warning("%s says '%s' without '%s', which has no meaning", self.path, _ZERO_SNR, _V_PREDICTION)
            return {}
        said: dict[str, Any] = {"prediction_type": "v_prediction"}
        if _ZERO_SNR in self.shapes:
            said |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return said

    @torch.no_grad()
    def fill(self, part: str, module: Any) -> None:
        """Give a component its weights. Raises `ValueError` if some are missing or of other shapes."""
        given = _CONVERSIONS[part](self, module)
        own: Named = module.state_dict()
        if missing := sorted(own.keys() - given.keys()):
            raise ValueError(f"it lacks {len(missing)} weights of the {part}, such as {missing[0]}")
        for key, value in own.items():
            if given[key].shape != value.shape:
                raise ValueError(
                    f"{key} of the {part} is {_written(given[key])}, but by its configuration {_written(value)}"
                )
        module.load_state_dict({key: given[key] for key in own})

    def below(self, prefix: str) -> Named:
        """The weights whose names begin with `prefix`, by their whole names."""
        with safe_open(self.path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in self.shapes if key.startswith(prefix)}


def read_original(name: str, path: Path, config: Path) -> Original:
    """The checkpoint in a file, to be put together as the model in the directory `config` is.

    Raises `ModelError` if the file is anything else, or of another generation than that model.
    """
    shapes = read_shapes(path)
    kinds.check_kind(path, shapes)
    expected = layout.read_json(name, config / "unet" / "config.json").get("cross_attention_dim")
    kinds.check_width(name, path, shapes, config, expected)
    with safe_open(path, framework="pt") as file:
        return Original(path, shapes, file.metadata() or {})


def _unet(original: Original, module: Any) -> Named:
    converted: Named = convert_ldm_unet_checkpoint(original.below(kinds.UNET), dict(module.config))
    return converted


def _vae(original: Original, module: Any) -> Named:
    converted: Named = convert_ldm_vae_checkpoint(original.below(kinds.VAE), dict(module.config))
    return converted


def _text_encoder(original: Original, module: Any) -> Named:
    """The encoder of OpenAI, with or without a module inside as releases of transformers had it, or OpenCLIP's."""
    open_clip = original.below(_OPEN_CLIP)
    if open_clip:
        named = convert_open_clip_checkpoint(module, open_clip, prefix=_OPEN_CLIP)
    else:
        named = {key.removeprefix(_CLIP): value for key, value in original.below(_CLIP).items()}
    inside = "text_model." if hasattr(module, "text_model") else ""
    return {inside + key.removeprefix("text_model."): value for key, value in named.items()}


_CONVERSIONS: Mapping[str, Callable[[Original, Any], Named]] = {
    "unet": _unet,
    "vae": _vae,
    "text_encoder": _text_encoder,
}


def _written(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape))
