"""From a model's source to a model ready to compute, on its device and with all that a job needs to know of it."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from farm import sources
from farm.errors import ModelError, ModelUnavailable
from farm.jobs.spec import SAMPLERS
from farm.keys import MODEL_CONFIG, MODEL_FILE, MODEL_VAE
from worker.diffusion import schedules
from worker.diffusion.adapting import Adapting
from worker.diffusion.cross_attention import cache_cross_attention
from worker.diffusion.preview import PreviewMap, fit_preview_map, read_preview_map
from worker.diffusion.prompts import PromptEncoder
from worker.models import layout
from worker.models.architecture import configuration
from worker.models.autoencoder import read_autoencoder
from worker.models.components import Components, read_checkpoint, read_directory
from worker.models.cuda_graphs import with_graphs
from worker.models.device import Placement
from worker.models.disguises import first_line
from worker.models.fused import fuse
from worker.models.hub import download
from worker.models.memory_profile import memory_profile
from worker.models.model import LoadedModel, UNetForward
from worker.models.registry import Bucket, Hub, LocalDirectory, SingleFile, Source, Stored, options_of
from worker.models.steady import keep_rows_steady
from worker.models.stored import StoredModels, told_of_the_farm
from worker.models.torchscript import recorded

_log = logging.getLogger(__name__)

FetchPrefix = Callable[[str, Path], None]
"""Downloads every object below an `s3://BUCKET/PREFIX` into a directory. Raises `StorageError`."""


_READ_AT_ONCE = 2**20  # bytes

Compile = Callable[[LoadedModel], UNetForward | None]


class ModelLoader:
    """Loads models onto one device, and compiles them if told how. Downloads from buckets are kept below `cache`, those
    of the farm's own models where `stored` keeps them."""

    def __init__(
        self,
        placement: Placement,
        *,
        cache: Path,
        fetch: FetchPrefix | None = None,
        stored: StoredModels | None = None,
        compile: Compile | None = None,
    ) -> None:
        self._placement = placement
        self._cache = cache
        self._fetch = fetch
        self._stored = stored
        self._compile = compile
        self._cores = torch.get_num_threads()

    def load(self, name: str, source: Source) -> LoadedModel:
        """The model `name` from its source, ready for its first job.

        Raises `ModelError` saying what is wrong with it and what to try.
        """
        torch.set_num_threads(self._cores)  # a new thread has what a forward running now has set
        if vae := source.options.vae:
            read_autoencoder(vae)  # before anything is downloaded
        model = self._loaded(name, source)
        if vae:
            with _reading_sha256(vae) as sha256:
                model = replace(model, vae_file=vae.name, vae_sha256=sha256())
        try:
            model = replace(model, memory=memory_profile(model), recorded=recorded(model, self._cores))
        except (RuntimeError, MemoryError) as error:
            raise ModelError(
                f"the model '{name}' cannot render a picture on {model.device}: {first_line(error)}"
            ) from error
        return with_graphs(replace(model, compiled=self._compile(model)) if self._compile else model)

    def _loaded(self, name: str, source: Source) -> LoadedModel:
        match source:
            case LocalDirectory(path):
                return self._from_directory(name, source, path)
            case Hub(revision=revision):
                directory = download(source, instead=f"{name}=DIRECTORY")
                return self._from_directory(name, source, directory, revision=revision)
            case Bucket(url):
                return self._from_bucket(name, source, url)
            case Stored():
                return self._from_farm(name, source)
            case SingleFile(path, _, options):
                with configuration(name, source) as config, _reading_sha256(path) as sha256:
                    parts = read_checkpoint(name, path, config, self._placement, options)
                    return replace(self._settle(name, source, parts, config), sha256=sha256())

    def _from_directory(
        self, name: str, source: Source, directory: Path, *, revision: str | None = None
    ) -> LoadedModel:
        components = read_directory(name, directory, self._placement, source.options)
        return self._settle(name, source, components, directory, revision=revision)

    def _from_bucket(self, name: str, source: Bucket, url: str) -> LoadedModel:
        directory = self._fetched(name, url)
        try:
            components = read_directory(name, directory, self._placement, source.options)
        except ModelError:  # it may have been fetched while it was being uploaded
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return self._settle(name, source, components, directory)

    def _from_farm(self, name: str, source: Stored) -> LoadedModel:
        if self._stored is None:
            raise ModelError(f"the model '{name}' is the farm's, and this process has no farm")
        try:
            return self._from_files(name, source, self._stored)
        except ModelUnavailable:
            raise
        except ModelError:
            if not self._stored.mend(source):
                raise
        return self._from_files(name, source, self._stored)

    def _from_files(self, name: str, source: Stored, stored: StoredModels) -> LoadedModel:
        with stored.opened(source) as kept, told_of_the_farm(name, kept.folder):
            folder, vae = kept.folder, kept.folder / MODEL_VAE
            options = options_of({**kept.options, **({sources.VAE: str(vae)} if kept.vae_sha256 else {})})
            file, config = folder / MODEL_FILE, folder / MODEL_CONFIG
            if file.is_file():
                is_alone = not config.is_dir()
                model = self._loaded(name, SingleFile(file, None if is_alone else config, options))
            else:
                model = self._loaded(name, LocalDirectory(folder, options))
        told = kept.options.get(sources.VAE)
        return replace(model, source=str(source), vae_file=told, vae_sha256=kept.vae_sha256)

    def _settle(
        self, name: str, source: Source, parts: Components, directory: Path, *, revision: str | None = None
    ) -> LoadedModel:
        """Put the parts on the device. What suits the model is said by files in `directory`."""
        _check_parts(name, parts)
        self._place_all(name, parts)
        for component, module in parts.modules.items():
            _check_finite(name, component, module)
        cross_attention = cache_cross_attention(parts.unet)
        vae_factor = 2 ** (len(parts.vae.config["block_out_channels"]) - 1)
        side = parts.unet.config["sample_size"] * vae_factor
        return LoadedModel(
            name=name,
            source=str(source),
            revision=revision,
            family=parts.layout.family,
            unet=parts.unet,
            vae=parts.vae,
            encoders=parts.encoders,
            prompts=PromptEncoder(parts.encoders, zeros_for_nothing=parts.layout.zeros_for_nothing),
            cross_attention=cross_attention,
            adapting=Adapting(parts.unet, cross_attention),
            scheduler_config=parts.scheduler_config,
            preview=_preview_map(directory, parts.vae),
            device=self._placement.device,
            dtype=self._placement.dtype,
            vae_factor=vae_factor,
            default_width=side,
            default_height=side,
            defaults=layout.defaults_in(directory, parts.layout.family),
            size=sum(map(_bytes_of, parts.modules.values())),
        )

    def _place_all(self, name: str, parts: Components) -> None:
        where = self._placement
        try:
            self._place(parts.unet, where.dtype, channels_last=where.channels_last)
            if where.device.type == "cuda":
                keep_rows_steady(parts.unet)
            self._place(parts.vae, where.vae_dtype, channels_last=where.vae_channels_last)
            for encoder in parts.encoders:
                self._place(encoder.module, where.dtype, channels_last=False)
        except RuntimeError as error:
            raise ModelError(f"the model '{name}' does not fit on {where.device}: {first_line(error)}") from error

    def _place(self, module: torch.nn.Module, dtype: torch.dtype, *, channels_last: bool) -> None:
        """Put a module where it computes, for inference alone."""
        if next(module.parameters()).dtype != dtype:
            module.to(dtype=dtype)
        module.to(self._placement.device)
        if channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
            if self._placement.device.type == "cuda":
                fuse(module)
        module.eval().requires_grad_(False)

    def _fetched(self, name: str, url: str) -> Path:
        """The local copy of a bucket's prefix, downloaded once; it appears under its name only when complete."""
        if self._fetch is None:
            raise ModelError(f"the model '{name}' is in {url}, but this worker has no access to buckets")
        directory = self._cache / hashlib.sha256(url.encode()).hexdigest()[:16]
        if directory.is_dir():
            return directory
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix="partial-", dir=self._cache))
        except OSError as error:
            raise ModelUnavailable(f"{url} cannot be kept in {self._cache}: {error.strerror}") from error
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


def _check_parts(name: str, parts: Components) -> None:
    """Raise `ModelError` for parts that do not belong together, or that nothing can be sampled with."""
    encoders = [encoder.module.config for encoder in parts.encoders]
    layout.check_configs(name, parts.layout.family, parts.unet.config, parts.vae.config, encoders)
    for config, tokenizer in zip(encoders, (encoder.tokenizer for encoder in parts.encoders), strict=True):
        layout.check_vocabulary(name, tokenizer.get_vocab().values(), tokenizer.model_max_length, config)
    _check_samplers(name, parts.scheduler_config)


def _preview_map(directory: Path, vae: AutoencoderKL) -> PreviewMap:
    """The model's own preview map, or one fitted to its autoencoder."""
    file = directory / "preview.json"
    preview = read_preview_map(file) if file.is_file() else fit_preview_map(vae)
    if preview.channels != vae.config["latent_channels"]:
        raise ModelError(f"{file} is not a preview map of this model", hint="its 'kernel' has another size")
    return preview


def _check_samplers(name: str, scheduler_config: Mapping[str, Any]) -> None:
    """Raise `ModelError` if no sampler can follow the model's schedule, and warn of each that cannot."""
    unusable = schedules.unusable(scheduler_config)
    if len(unusable) == len(SAMPLERS):
        reason = next(iter(unusable.values()))
        raise ModelError(f"the model '{name}' cannot be sampled: {reason.message}", hint=reason.hint)
    for sampler, reason in unusable.items():
        _log.warning("jobs of the model '%s' with the sampler '%s' will fail: %s", name, sampler, reason)


def _check_finite(name: str, component: str, module: torch.nn.Module) -> None:
    """Raise `ModelError` if a weight is not a number, or too large for the precision that it is computed in."""
    for key, weight in module.named_parameters():
        if not weight.isfinite().all():
            raise ModelError(
                f"the {component} of the model '{name}' has weights that are not finite numbers, in {key}",
                hint="the file is damaged, or was made by a training or a merge that went wrong",
            )


@contextmanager
def _reading_sha256(path: Path) -> Iterator[Callable[[], str]]:
    """The digest of a file that is read meanwhile, for whoever asks before that is over: it is not read to its end for
    a model that cannot be loaded."""
    stop = threading.Event()

    def digest() -> str:
        found = hashlib.sha256()
        with path.open("rb") as file:
            while not stop.is_set() and (data := file.read(_READ_AT_ONCE)):
                found.update(data)
        return found.hexdigest()

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(digest)
        try:
            yield result.result
        finally:
            stop.set()


def _bytes_of(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
