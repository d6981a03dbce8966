"""From a model's source to a model ready to compute, on its device and with all that a job needs to know of it."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from farm.errors import ModelError
from farm.spec import SAMPLERS
from worker.diffusion import schedules
from worker.diffusion.conditioning import PromptEncoder
from worker.diffusion.preview import PreviewMap, fit_preview_map, read_preview_map
from worker.diffusion.text_memory import TextMemory, remember_text
from worker.models import layout
from worker.models.appetite import Appetite, appetite_of
from worker.models.compiled import CompiledUNet, laid_out
from worker.models.components import Components, read_checkpoint, read_directory
from worker.models.device import Placement
from worker.models.disguises import first_line
from worker.models.hub import download, download_configuration
from worker.models.kinds import check_kind
from worker.models.registry import STABLE_DIFFUSION_1_4, Bucket, Hub, LocalDirectory, SingleFile, Source
from worker.models.traced import TracedUNet, traced
from worker.models.weights import read_shapes

_log = logging.getLogger(__name__)

FetchPrefix = Callable[[str, Path], None]
"""Downloads every object below an `s3://BUCKET/PREFIX` into a directory. Raises `StorageError`."""


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
    text_memory: TextMemory = field(repr=False)
    scheduler_config: Mapping[str, Any] = field(repr=False)
    preview: PreviewMap = field(repr=False)
    device: torch.device
    dtype: torch.dtype
    vae_factor: int
    """Pixels per latent pixel, on each side: 8 for Stable Diffusion."""
    default_width: int
    default_height: int
    default_guidance: float
    size: int
    """Bytes of all parameters and buffers."""
    sha256: str | None = None
    """Of the file that it was loaded from, if it is one."""
    appetite: Appetite | None = None
    """What forwards and decodes take besides; None: not measured."""
    traced: TracedUNet | None = field(default=None, repr=False)
    compiled: CompiledUNet | None = field(default=None, repr=False)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a picture of the default size."""
        channels: int = self.unet.config["in_channels"]
        return channels, self.default_height // self.vae_factor, self.default_width // self.vae_factor

    @property
    def called_unet(self) -> torch.nn.Module:
        """The module that `predict` calls for the model's own size, to be hooked: hooks on the UNet inside are not
        called, or would undo the compilation."""
        if self.compiled is not None:
            module: torch.nn.Module = self.compiled.module
            return module
        return self.unet if self.traced is None else self.traced

    def is_large(self, shape: Sequence[int]) -> bool:
        """Whether latents [..., h, w] are of a picture beyond the model's own size that may take long."""
        return shape[-2] * shape[-1] > max(self.latent_shape[-2] * self.latent_shape[-1], _LARGE)

    def predict(self, rows: Tensor, timesteps: Tensor, texts: Tensor) -> Tensor:
        """The UNet's output [N, 4, h, w], in the model's dtype.

        `rows` [N, 4, h, w] are noisy latents, scaled as the UNet reads them, and `texts` [N, tokens, width] memories or
        embeddings of prompts (see `TextMemory`).
        """
        rows = rows.to(self.dtype)
        if self.compiled is not None and self.compiled.fits(rows):
            return self.compiled(rows, timesteps, texts)
        # A recording is one long operator, in the midst of which nobody else can have a turn.
        if self.traced is not None and not self.is_large(rows.shape) and self.traced.fits(rows, texts):
            done: Tensor = self.traced(rows, timesteps, texts)
            return done
        out: Tensor = self.unet(laid_out(rows), timesteps, encoder_hidden_states=texts).sample
        return out


_LARGE = 64 * 64
"""Latent pixels: of 512×512 at a factor of 8. A step of fewer takes moderate time on anything."""

Compile = Callable[[LoadedModel], CompiledUNet | None]


class ModelLoader:
    """Loads models onto one device, and compiles them if told how. Downloads from buckets are kept below `cache`."""

    def __init__(
        self, placement: Placement, *, cache: Path, fetch: FetchPrefix | None = None, compile: Compile | None = None
    ) -> None:
        self._placement = placement
        self._cache = cache
        self._fetch = fetch
        self._compile = compile
        self._cores = torch.get_num_threads()

    def load(self, name: str, source: Source) -> LoadedModel:
        """The model `name` from its source, ready for its first job.

        Raises `ModelError` saying what is wrong with it and what to try.
        """
        torch.set_num_threads(self._cores)  # a new thread has what a forward that runs right now leaves to others
        model = self._loaded(name, source)
        try:
            model = replace(model, appetite=appetite_of(model), traced=traced(model, self._cores))
        except (RuntimeError, MemoryError) as error:
            raise ModelError(
                f"the model '{name}' cannot render a picture on {model.device}: {first_line(error)}"
            ) from error
        return replace(model, compiled=self._compile(model)) if self._compile else model

    def _loaded(self, name: str, source: Source) -> LoadedModel:
        match source:
            case LocalDirectory(path):
                return self._from_directory(name, source, path)
            case Hub(revision=revision):
                directory = download(source, instead=f"{name}=DIRECTORY")
                return self._from_directory(name, source, directory, revision=revision)
            case Bucket(url):
                return self._from_directory(name, source, self._fetched(name, url))
            case SingleFile(path, config):
                check_kind(path, read_shapes(path))  # before a hub is asked how to put together what is none
                config = config or download_configuration(
                    STABLE_DIFFUSION_1_4, instead=f"{name}={path}#config=DIRECTORY"
                )
                with ThreadPoolExecutor(1) as pool:  # as long as its weights are read and converted
                    sha256 = pool.submit(_sha256_of, path)
                    model = self._settle(name, source, read_checkpoint(name, path, config), config)
                    return replace(model, sha256=sha256.result())

    def _from_directory(
        self, name: str, source: Source, directory: Path, *, revision: str | None = None
    ) -> LoadedModel:
        components = read_directory(name, directory, self._placement)
        return self._settle(name, source, components, directory, revision=revision)

    def _settle(
        self, name: str, source: Source, parts: Components, directory: Path, *, revision: str | None = None
    ) -> LoadedModel:
        """Put the parts on the device. What suits the model is said by files in `directory`."""
        layout.check_configs(name, parts.unet.config, parts.vae.config, parts.text_encoder.config)
        tokenizer = parts.tokenizer
        layout.check_vocabulary(
            name, tokenizer.get_vocab().values(), tokenizer.model_max_length, parts.text_encoder.config
        )
        _check_samplers(name, parts.scheduler_config)
        try:
            where = self._placement
            self._place(parts.unet, where.dtype, channels_last=where.channels_last)
            self._place(parts.vae, where.vae_dtype, channels_last=where.vae_channels_last)
            self._place(parts.text_encoder, where.dtype, channels_last=False)
        except RuntimeError as error:
            raise ModelError(
                f"the model '{name}' does not fit on {self._placement.device}: {first_line(error)}"
            ) from error
        for component in ("unet", "vae", "text_encoder"):
            _check_finite(name, component, getattr(parts, component))
        guidance = layout.read_guidance(directory)
        preview_file = directory / "preview.json"
        preview = read_preview_map(preview_file) if preview_file.is_file() else fit_preview_map(parts.vae)
        if preview.channels != parts.vae.config["latent_channels"]:
            raise ModelError(f"{preview_file} is not a preview map of this model", hint="its 'kernel' has another size")
        vae_factor = 2 ** (len(parts.vae.config["block_out_channels"]) - 1)
        side = parts.unet.config["sample_size"] * vae_factor
        return LoadedModel(
            name=name,
            source=str(source),
            revision=revision,
            unet=parts.unet,
            vae=parts.vae,
            text_encoder=parts.text_encoder,
            tokenizer=parts.tokenizer,
            prompts=PromptEncoder(parts.tokenizer, parts.text_encoder),
            text_memory=remember_text(parts.unet),
            scheduler_config=parts.scheduler_config,
            preview=preview,
            device=self._placement.device,
            dtype=self._placement.dtype,
            vae_factor=vae_factor,
            default_width=side,
            default_height=side,
            default_guidance=guidance,
            size=sum(map(_bytes_of, (parts.unet, parts.vae, parts.text_encoder))),
        )

    def _place(self, module: torch.nn.Module, dtype: torch.dtype, *, channels_last: bool) -> None:
        """Put a module where it computes, for inference alone."""
        if next(module.parameters()).dtype != dtype:
            module.to(dtype=dtype)
        module.to(self._placement.device)
        if channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        module.eval().requires_grad_(False)

    def _fetched(self, name: str, url: str) -> Path:
        """The local copy of a bucket's prefix, downloaded once; it appears under its name only when complete."""
        if self._fetch is None:
            raise ModelError(f"the model '{name}' is in {url}, and this worker has no access to buckets")
        directory = self._cache / hashlib.sha256(url.encode()).hexdigest()[:16]
        if directory.is_dir():
            return directory
        self._cache.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix="partial-", dir=self._cache))
        try:
            self._fetch(url, partial)
            return _publish(partial, directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: Path, directory: Path) -> Path:
    """Give a complete download its name, unless another worker was faster."""
    try:
        partial.rename(directory)
    except OSError:
        if not directory.is_dir():
            raise
    return directory


def _check_samplers(name: str, scheduler_config: Mapping[str, Any]) -> None:
    """Raise `ModelError` if no sampler can follow the model's schedule, and warn of each that cannot."""
    unusable = schedules.unusable(scheduler_config)
    if len(unusable) == len(SAMPLERS):
        reason = next(iter(unusable.values()))
        raise ModelError(f"the model '{name}' cannot be sampled: {reason.message}", hint=reason.hint)
    for sampler, reason in unusable.items():
        _log.warning("jobs of the model '%s' with the sampler '%s' will fail: %s", name, sampler, reason)


def _check_finite(name: str, component: str, module: torch.nn.Module) -> None:
    """Raise `ModelError` if a weight is not a number, or too large for the precision in which it is computed with."""
    for key, weight in module.named_parameters():
        if not weight.isfinite().all():
            raise ModelError(
                f"the {component} of the model '{name}' has weights that are no finite numbers, in {key}",
                hint="the file is damaged, or was made by a training or a merge that went wrong",
            )


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bytes_of(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
