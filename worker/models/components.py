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
from transformers import CLIPPreTrainedModel, CLIPTextConfig, CLIPTokenizer

from farm.errors import ModelError
from worker.diffusion.text import TextEncoder
from worker.models import kinds, layout, weights
from worker.models.autoencoder import read_autoencoder
from worker.models.device import Placement
from worker.models.disguises import first_line
from worker.models.filling import WithoutNumbers
from worker.models.layout import Layout
from worker.models.original import read_original
from worker.models.prediction import said_by, scheduler_of
from worker.models.registry import AS_IT_IS, Options
from worker.models.staging import staged
from worker.models.weights import Weights

VAE = "vae"


@dataclass(frozen=True)
class Components:
    """What a model consists of. Not yet on its device."""

    layout: Layout
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    encoders: tuple[TextEncoder, ...]
    scheduler_config: Mapping[str, Any]
    """The layout's, and what a file says of itself."""

    @property
    def modules(self) -> Mapping[str, torch.nn.Module]:
        """Every part with weights, by its folder."""
        named = zip(self.layout.family.encoders, self.encoders, strict=True)
        return {"unet": self.unet, "vae": self.vae, **{part.folder: encoder.module for part, encoder in named}}


def read_directory(name: str, directory: Path, placement: Placement, options: Options = AS_IT_IS) -> Components:
    """The parts in a directory of diffusers' layout. Raises `ModelError` if it is another layout or incomplete."""
    found_layout = layout.check(name, directory)
    family = found_layout.family
    scheduler_config = scheduler_of(name, found_layout.scheduler_config, options, directory)
    own = {part: kind for part, kind in family.parts.items() if part != VAE or options.vae is None}
    found = {part: weights.find(name, directory, part) for part in own}
    try:
        with staged(name, family, directory, found) as stage:
            for part, files in found.items():
                _check_count(stage / part, own[part], files)
            modules = {part: _pretrained(kind, stage / part, placement) for part, kind in own.items()}
            if options.vae is not None:
                modules[VAE] = _autoencoder(stage / VAE, options.vae, placement)
            return _put_together(found_layout, modules, stage, scheduler_config)
    except ModelError:
        raise
    except Exception as error:  # what the libraries make of files that are not as they should be
        raise ModelError(f"the model '{name}' in {directory} cannot be loaded: {first_line(error)}") from error


def read_checkpoint(
    name: str, path: Path, config: Path, placement: Placement, options: Options = AS_IT_IS
) -> Components:
    """The parts in one file with the original key names, put together as the model in the directory `config` is.

    Raises `ModelError` if the file is anything else, damaged or incomplete, or of another architecture than `config`.
    """
    found_layout = layout.check(name, config)
    family = found_layout.family
    original = read_original(path)
    kinds.check_config(name, path, original.shapes, config, layout.read_json(name, config / "unet" / "config.json"))
    scheduler_config = scheduler_of(name, found_layout.scheduler_config, options, path, said_by(original))
    own = {part: kind for part, kind in family.parts.items() if part != VAE or options.vae is None}
    try:
        with staged(name, family, config, {}) as stage:
            with torch.device("meta"):  # before memory is taken
                for part, kind in own.items():
                    original.check(name, part, empty(stage / part, kind))
            with WithoutNumbers():
                modules = {part: empty(stage / part, kind) for part, kind in own.items()}
            for part, module in modules.items():
                original.fill(part, module, _dtype(own[part], placement))
            if options.vae is not None:
                modules[VAE] = _autoencoder(stage / VAE, options.vae, placement)
            return _put_together(found_layout, modules, stage, scheduler_config)
    except ModelError:
        raise
    except Exception as error:  # as above
        raise ModelError(
            f"the checkpoint {path} cannot be loaded: {first_line(error)}",
            hint=f"if it is of another architecture, name a local model like it: {name}={path}#config=DIRECTORY",
        ) from error


def _put_together(
    found: Layout, modules: Mapping[str, Any], stage: Path, scheduler_config: Mapping[str, Any]
) -> Components:
    encoders = tuple(
        TextEncoder(_tokenizer(stage / part.tokenizer), modules[part.folder], part.hidden, part.pools)
        for part in found.family.encoders
    )
    return Components(found, modules["unet"], modules["vae"], encoders, scheduler_config)


def _tokenizer(directory: Path) -> CLIPTokenizer:
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(directory, local_files_only=True)
    return tokenizer


def empty(directory: Path, kind: Any) -> Any:
    """A component made by its configuration, with weights that mean nothing."""
    if issubclass(kind, CLIPPreTrainedModel):
        config = CLIPTextConfig.from_pretrained(directory, local_files_only=True)
        return kind._from_config(config, attn_implementation="sdpa")
    return kind.from_config(kind.load_config(directory, local_files_only=True))


def _autoencoder(directory: Path, file: Path, placement: Placement) -> AutoencoderKL:
    """An autoencoder as the configuration in `directory` says, with the weights of a file of its own."""
    given = read_autoencoder(file)
    with torch.device("meta"):
        given.check(empty(directory, AutoencoderKL))
    with WithoutNumbers():
        autoencoder: AutoencoderKL = empty(directory, AutoencoderKL)
    given.fill(autoencoder, placement.vae_dtype)
    return autoencoder


def _dtype(kind: Any, placement: Placement) -> torch.dtype:
    """The precision in which a part of some class computes."""
    return placement.vae_dtype if kind is AutoencoderKL else placement.dtype


def _check_count(directory: Path, kind: Any, files: Weights) -> None:
    """Raise `ValueError` if files hold not even half of a component, before memory is taken for all of it."""
    with torch.device("meta"):
        needed = sum(parameter.numel() for parameter in empty(directory, kind).parameters())
    if 2 * (held := files.count()) < needed:
        raise ValueError(f"it has {held:,} of the {needed:,} weights of the {directory.name}")


def _pretrained(kind: Any, directory: Path, placement: Placement) -> Any:
    """A component with its weights in the precision in which it computes."""
    dtype = _dtype(kind, placement)
    if issubclass(kind, CLIPPreTrainedModel):
        options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa"}
    else:
        options = {"torch_dtype": dtype, "low_cpu_mem_usage": False}
    module, report = kind.from_pretrained(
        directory, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"{directory.name} lacks {len(missing)} weights, such as {missing[0]}")
    return module
