"""A model's parts, read from a directory in diffusers' layout or from one checkpoint in the original layout.

Weights come from safetensors alone, which cannot run code, and must be complete: those that a file lacks
would silently be random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from farm.errors import ModelError
from worker.models import layout, weights
from worker.models.device import Placement
from worker.models.disguises import first_line
from worker.models.original import read_original
from worker.models.staging import staged
from worker.models.weights import Weights

_CLASSES: Mapping[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}


@dataclass(frozen=True)
class Components:
    """What Stable Diffusion consists of. Not yet on its device."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler_config: Mapping[str, Any]


def read_directory(name: str, directory: Path, placement: Placement) -> Components:
    """The parts in a directory of diffusers' layout. Raises `ModelError` if it is another layout or incomplete."""
    scheduler_config = layout.check(name, directory)
    found = {part: weights.find(name, directory / part, stem) for part, stem in weights.STEMS.items()}
    dtype, vae_dtype = placement.dtype, placement.vae_dtype
    try:
        with staged(name, directory, found) as stage:
            for part, files in found.items():
                _check_count(stage / part, files)
            return Components(
                unet=_pretrained(UNet2DConditionModel, stage / "unet", torch_dtype=dtype, low_cpu_mem_usage=False),
                vae=_pretrained(AutoencoderKL, stage / "vae", torch_dtype=vae_dtype, low_cpu_mem_usage=False),
                text_encoder=_pretrained(
                    CLIPTextModel, stage / "text_encoder", dtype=dtype, attn_implementation="sdpa"
                ),
                tokenizer=_tokenizer(stage),
                scheduler_config=scheduler_config,
            )
    except ModelError:
        raise
    except Exception as error:  # what the libraries make of files that are not as they should be
        raise ModelError(f"the model '{name}' in {directory} cannot be loaded: {first_line(error)}") from error


def read_checkpoint(name: str, path: Path, config: Path) -> Components:
    """The parts in one file with the original key names, put together as the model in the directory `config` is.

    Raises `ModelError` if the file is anything else, damaged or incomplete, or of another architecture than `config`.
    """
    scheduler_config = layout.check(name, config)
    original = read_original(name, path, config)
    try:
        with staged(name, config, {}) as stage:
            modules = {part: _empty(stage / part) for part in _CLASSES}
            for part, module in modules.items():
                original.fill(part, module)
            return Components(
                **modules, tokenizer=_tokenizer(stage), scheduler_config={**scheduler_config, **original.prediction}
            )
    except ModelError:
        raise
    except Exception as error:  # as above
        raise ModelError(
            f"the checkpoint {path} cannot be loaded: {first_line(error)}",
            hint=f"if it is of another architecture, name a local model like it: {name}={path}#config=DIRECTORY",
        ) from error


def _tokenizer(stage: Path) -> CLIPTokenizer:
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(stage / "tokenizer", local_files_only=True)
    return tokenizer


def _empty(directory: Path) -> Any:
    """A component made by its configuration, with weights that mean nothing."""
    component = _CLASSES[directory.name]
    if component is CLIPTextModel:
        config = CLIPTextConfig.from_pretrained(directory, local_files_only=True)
        return CLIPTextModel._from_config(config, attn_implementation="sdpa")
    return component.from_config(component.load_config(directory, local_files_only=True))


def _check_count(directory: Path, files: Weights) -> None:
    """Raise `ValueError` if files hold not even half of a component, before memory is taken for all of it."""
    with torch.device("meta"):
        needed = sum(parameter.numel() for parameter in _empty(directory).parameters())
    if 2 * (held := files.count()) < needed:
        raise ValueError(f"it has {held:,} of the {needed:,} weights of the {directory.name}")


def _pretrained(component: Any, directory: Path, **options: Any) -> Any:
    module, report = component.from_pretrained(
        directory, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"{directory.name} lacks {len(missing)} weights, such as {missing[0]}")
    return module
