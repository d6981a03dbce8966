"""From a model's source to a model ready to compute: checked, safetensors only, placed on its device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTokenizer

from farm.errors import ModelError
from worker.diffusion.conditioning import PromptEncoder
from worker.diffusion.preview import PreviewMap, fit_preview_map, read_preview_map
from worker.models import layout
from worker.models.device import Placement
from worker.models.registry import HUB_FILES, Bucket, Hub, LocalDirectory, SingleFile, Source

FetchPrefix = Callable[[str, Path], None]
"""Downloads every object below an `s3://BUCKET/PREFIX` into a directory. Raises `StorageError`."""

_LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model on its device, with what a job needs to know of it. Compared by identity."""

    name: str
    source: str
    revision: str | None
    unet: UNet2DConditionModel = field(repr=False)
    vae: AutoencoderKL = field(repr=False)
    text_encoder: CLIPTextModel = field(repr=False)
    tokenizer: CLIPTokenizer = field(repr=False)
    prompts: PromptEncoder = field(repr=False)
    scheduler_config: Mapping[str, Any] = field(repr=False)
    preview: PreviewMap = field(repr=False)
    device: torch.device
    dtype: torch.dtype
    vae_factor: int
    """Pixels per latent pixel, on each side: 8 for Stable Diffusion."""
    default_width: int
    default_height: int
    default_guidance: float
    default_steps: int
    size: int
    """Bytes of all parameters and buffers."""


class ModelLoader:
    """Loads models onto one device. Downloads from buckets are kept below `cache`."""

    def __init__(self, placement: Placement, *, cache: Path, fetch: FetchPrefix | None = None) -> None:
        self._placement = placement
        self._cache = cache
        self._fetch = fetch

    def load(self, name: str, source: Source) -> LoadedModel:
        """The model `name` from its source. Raises `ModelError` saying what is wrong with it and what to try."""
        match source:
            case LocalDirectory(path):
                return self._from_directory(name, source, path)
            case Hub(repository, revision):
                return self._from_directory(name, source, _download(name, repository, revision), revision=revision)
            case Bucket(url):
                return self._from_directory(name, source, self._fetched(name, url))
            case SingleFile(path, config):
                return self._from_file(name, source, path, config)

    def _from_directory(
        self, name: str, source: Source, directory: Path, *, revision: str | None = None
    ) -> LoadedModel:
        layout.check(name, directory)
        dtype, vae_dtype = self._placement.dtype, self._placement.vae_dtype
        try:
            unet = _weights(UNet2DConditionModel, directory / "unet", torch_dtype=dtype, low_cpu_mem_usage=False)
            vae = _weights(AutoencoderKL, directory / "vae", torch_dtype=vae_dtype, low_cpu_mem_usage=False)
            text_encoder = _weights(CLIPTextModel, directory / "text_encoder", dtype=dtype)
            tokenizer = CLIPTokenizer.from_pretrained(directory / "tokenizer", local_files_only=True)
            scheduler_config = json.loads((directory / "scheduler" / "scheduler_config.json").read_text())
        except _LOADING_ERRORS as error:
            raise ModelError(f"the model '{name}' in {directory} cannot be loaded: {_first_line(error)}") from error
        return self._assemble(
            name, source, directory, unet, vae, text_encoder, tokenizer, scheduler_config, revision=revision
        )

    def _from_file(self, name: str, source: Source, path: Path, config: Path | None) -> LoadedModel:
        """A checkpoint in the original layout; without `config` diffusers asks the hub for the configuration."""
        from diffusers import StableDiffusionPipeline  # slow to import, and rarely needed

        try:
            pipeline = StableDiffusionPipeline.from_single_file(
                str(path),
                config=str(config) if config else None,
                local_files_only=config is not None,
                torch_dtype=torch.float32,
                safety_checker=None,
                low_cpu_mem_usage=False,
            )
        except (*_LOADING_ERRORS, AttributeError) as error:
            hint = None if config else f"offline, name a local model of the same kind: {name}={path}#config=DIRECTORY"
            raise ModelError(f"the checkpoint {path} cannot be loaded: {_first_line(error)}", hint=hint) from error
        return self._assemble(
            name,
            source,
            path.parent,
            pipeline.unet,
            pipeline.vae,
            pipeline.text_encoder,
            pipeline.tokenizer,
            dict(pipeline.scheduler.config),
            revision=None,
        )

    def _assemble(
        self,
        name: str,
        source: Source,
        directory: Path,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler_config: Mapping[str, Any],
        *,
        revision: str | None,
    ) -> LoadedModel:
        layout.check_configs(name, unet.config, vae.config, text_encoder.config)
        try:
            self._settle(unet, self._placement.dtype)
            self._settle(vae, self._placement.vae_dtype)
            self._settle(text_encoder, self._placement.dtype)
        except RuntimeError as error:
            raise ModelError(f"the model '{name}' does not fit on {self._placement.device}: {error}") from error
        defaults = layout.read_defaults(directory)
        preview = directory / "preview.json"
        side = unet.config["sample_size"]
        vae_factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
        return LoadedModel(
            name=name,
            source=str(source),
            revision=revision,
            unet=unet,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            prompts=PromptEncoder(tokenizer, text_encoder),
            scheduler_config=scheduler_config,
            preview=read_preview_map(preview) if preview.is_file() else fit_preview_map(vae),
            device=self._placement.device,
            dtype=self._placement.dtype,
            vae_factor=vae_factor,
            default_width=side * vae_factor,
            default_height=side * vae_factor,
            default_guidance=defaults.guidance,
            default_steps=defaults.steps,
            size=sum(map(_bytes_of, (unet, vae, text_encoder))),
        )

    def _settle(self, module: torch.nn.Module, dtype: torch.dtype) -> None:
        """Put a module where it computes, for inference alone."""
        if next(module.parameters()).dtype != dtype:
            module.to(dtype=dtype)
        module.to(self._placement.device)
        if self._placement.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        module.eval().requires_grad_(False)

    def _fetched(self, name: str, url: str) -> Path:
        """The local copy of a bucket's prefix, downloaded once; it appears under its name only when complete."""
        if self._fetch is None:
            raise ModelError(f"the model '{name}' is in {url}, and this worker has no access to buckets")
        directory = self._cache / hashlib.sha256(url.encode()).hexdigest()[:16]
        if not directory.is_dir():
            partial = directory.with_suffix(".partial")
            partial.mkdir(parents=True, exist_ok=True)
            self._fetch(url, partial)
            partial.rename(directory)
        return directory


def _weights(component: Any, directory: Path, **options: Any) -> Any:
    """A component from its directory, complete: weights that the files lack would silently be random."""
    module, report = component.from_pretrained(
        directory, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"{directory.name} lacks {len(missing)} weights, such as {missing[0]}")
    return module


def _download(name: str, repository: str, revision: str) -> Path:
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(HUB_FILES)))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise ModelError(
            f"the model '{name}' cannot be downloaded from the hub ({repository}@{revision}): {_first_line(error)}",
            hint=f"check the network, or give a local copy: {name}=DIRECTORY",
        ) from error


def _bytes_of(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
