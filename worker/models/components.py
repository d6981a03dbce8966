"""A model's parts, read from a directory in diffusers' layout or from one checkpoint in the original layout.

Weights come from safetensors alone, which cannot run code, and must be complete: those that a file lacks
would silently be random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPTextModel, CLIPTokenizer

from farm.errors import ModelError
from worker.models import layout
from worker.models.device import Placement

_ORIGINAL_PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.",
}


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
    dtype, vae_dtype = placement.dtype, placement.vae_dtype
    try:
        return Components(
            unet=_pretrained(UNet2DConditionModel, directory / "unet", torch_dtype=dtype, low_cpu_mem_usage=False),
            vae=_pretrained(AutoencoderKL, directory / "vae", torch_dtype=vae_dtype, low_cpu_mem_usage=False),
            text_encoder=_pretrained(
                CLIPTextModel, directory / "text_encoder", dtype=dtype, attn_implementation="sdpa"
            ),
            tokenizer=CLIPTokenizer.from_pretrained(directory / "tokenizer", local_files_only=True),
            scheduler_config=scheduler_config,
        )
    except Exception as error:  # what the libraries make of files that are not as they should be
        raise ModelError(f"the model '{name}' in {directory} cannot be loaded: {first_line(error)}") from error


def read_checkpoint(name: str, path: Path, config: Path) -> Components:
    """The parts in one file with the original key names, put together as the model in the directory `config` is.

    Raises `ModelError` if the checkpoint is damaged, incomplete or of another architecture than `config`.
    """
    from diffusers import StableDiffusionPipeline  # slow to import, and rarely needed

    layout.check_no_code(name, config)
    try:
        pipeline: Any = StableDiffusionPipeline.from_single_file(
            str(path), config=str(config), local_files_only=True, safety_checker=None, low_cpu_mem_usage=False
        )
        _check_complete(path, pipeline)
    except Exception as error:  # as above
        raise ModelError(
            f"the checkpoint {path} cannot be loaded: {first_line(error)}",
            hint=f"if it is of another architecture, name a local model like it: {name}={path}#config=DIRECTORY",
        ) from error
    scheduler_config = dict(pipeline.scheduler.config)
    layout.check_schedule(name, scheduler_config)
    return Components(
        unet=pipeline.unet,
        vae=pipeline.vae,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        scheduler_config=scheduler_config,
    )


def first_line(error: Exception) -> str:
    """What an error says, as one line."""
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def _pretrained(component: Any, directory: Path, **options: Any) -> Any:
    module, report = component.from_pretrained(
        directory, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"{directory.name} lacks {len(missing)} weights, such as {missing[0]}")
    return module


def _check_complete(path: Path, pipeline: Any) -> None:
    """diffusers does not say which weights a checkpoint lacks; their total count does."""
    with safe_open(path, framework="pt") as checkpoint:
        sizes = {
            key: math.prod(checkpoint.get_slice(key).get_shape())
            for key in checkpoint.keys()  # noqa: SIM118  # it is no mapping
            if not key.endswith("position_ids")
        }
    for component, prefix in _ORIGINAL_PREFIXES.items():
        held = sum(size for key, size in sizes.items() if key.startswith(prefix))
        needed = sum(parameter.numel() for parameter in getattr(pipeline, component).parameters())
        if held < needed:
            raise ValueError(f"it has {held:,} of the {needed:,} weights of the {component}")
