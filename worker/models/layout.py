"""Whether a directory is a model of Stable Diffusion's layout, checked before any weight is read."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from farm import layouts
from farm.disguises import CONVERT
from farm.errors import InvalidInput, ModelError
from farm.jobs import defaults
from farm.jobs.defaults import Defaults
from farm.jobs.spec import MAX_SIDE, MIN_SIDE
from farm.keys import PICKLED_WEIGHTS, WEIGHTS
from farm.layouts import INDEX, ONLY_SD
from worker.families.every import family_of
from worker.families.family import Family
from worker.models.bounds import check_numbers
from worker.models.disguises import recognised
from worker.models.kinds import EXTRA_CHANNELS, WHOLE_IS_NEEDED, check_kind
from worker.models.weights import fault_in, read_shapes

FETCHING_CODE = ("auto_map", "attn_implementation", "_attn_implementation", "quantization_config")
"""Keys by which a configuration asks the libraries for code of others, or for packages that are not needed here."""
ADAPTER = "adapter_config.json"
_ADDED = ("addition_embed_type", "class_embed_type", "time_cond_proj_dim")
_OF_LATENTS = ("latents_mean", "latents_std")
"""Of an autoencoder: what its latents are shifted and scaled by besides its `scaling_factor`."""
_LIBRARIES: Sequence[list[str | None]] = ([], [None], ["diffusers"], ["transformers"], ["stable_diffusion"])

_MAX_JSON_BYTES = 4 * 2**20
_FEWEST_TOKENS = 3  # both marks, and one between them


def defaults_in(directory: Path, family: Family) -> Defaults:
    """What suits a model, by its `farm.json` if it has one.

    Raises `ModelError` if the file is malformed, or says what a job may not, or what models of the family are not told.
    """
    path = directory / defaults.FILE
    if not path.is_file():
        return Defaults()
    try:
        found = defaults.read_defaults(_json(path))
    except (OSError, ValueError, AttributeError, InvalidInput) as error:
        raise ModelError(f"{path} is malformed: {error}") from error
    if found.framing and not family.reads_frame:
        raise ModelError(f"{path} says {next(iter(found.framing))}, which models of {family.title} are not told")
    return found


@dataclass(frozen=True)
class Layout:
    """How a model is put together: its family, the configuration of its scheduler as diffusers' pipelines read it, and
    whether it was trained with zeros for an empty negative prompt."""

    family: Family
    scheduler_config: Mapping[str, Any]
    zeros_for_nothing: bool


def check(name: str, directory: Path) -> Layout:
    """How the model in `directory` is put together.

    Raises `ModelError` unless its configurations are of exactly the expected classes, within bounds, and without code.
    What it has besides, such as a safety checker, is never loaded.
    """
    if not (directory / INDEX).is_file():
        raise _no_model(name, directory)
    if fault := layouts.unfit(directory, partial(read_json, name)):
        raise fault_in(name, directory, fault)
    index = read_json(name, directory / INDEX)
    unet = read_json(name, directory / layouts.UNET / layouts.CONFIG)
    family = family_of(unet)
    scheduler = read_json(name, directory / "scheduler" / "scheduler_config.json")
    for component in family.parts:
        check_numbers(name, component, read_json(name, directory / component / layouts.CONFIG))
    _check_unet(name, family, unet)
    check_no_code(name, directory)
    zeros = family.zeros_for_nothing and index.get("force_zeros_for_empty_prompt", True) is True
    return Layout(family, {**scheduler, "steps_offset": 1}, zeros)


def check_no_code(name: str, directory: Path) -> None:
    """Raise `ModelError` if a configuration in `directory` asks for code or weights from elsewhere.

    diffusers imports whatever module `model_index.json` names for a part.
    """
    for component, named in read_json(name, directory / INDEX).items():
        if isinstance(named, list) and named[:1] not in _LIBRARIES and not component.startswith("_"):
            raise ModelError(
                f"the {component} of the model '{name}' is of {named[0]!r:.60}, and no model may bring code",
                hint=ONLY_SD,
            )
    for path in sorted(directory.glob("*/*config.json")):
        asked = [key for key in FETCHING_CODE if key in read_json(name, path)]
        if asked or path.name == ADAPTER:
            what = asked[0] if asked else "an adapter"
            raise ModelError(
                f"{path} of the model '{name}' asks for {what}, which is not loaded here",
                hint="no model may bring code; remove it if the model works without",
            )


def check_configs(name: str, family: Family, unet: Any, vae: Any, encoders: Sequence[Any]) -> None:
    """Raise `ModelError` unless the parts fit together as Stable Diffusion's do."""
    own, masked = vae.latent_channels, 2 * vae.latent_channels + 1
    if unet.out_channels != own or unet.in_channels not in (own, masked):
        raise ModelError(
            f"the UNet of '{name}' goes from {unet.in_channels} to {unet.out_channels} channels, "
            f"but its latents have {vae.latent_channels}",
            hint=ONLY_SD,
        )
    factor = 2 ** (len(vae.block_out_channels) - 1)
    side = unet.sample_size * factor if isinstance(unet.sample_size, int) else None
    if side is None or side % 8 or not MIN_SIDE <= side <= MAX_SIDE:
        raise ModelError(
            f"the UNet of '{name}' has a sample_size of {unet.sample_size!r:.40}, its autoencoder a factor of {factor}",
            hint=f"pictures have sides of {MIN_SIDE} to {MAX_SIDE} pixels",
        )
    if not isinstance(vae.scaling_factor, (int, float)) or not 0 < vae.scaling_factor < math.inf:
        raise ModelError(f"the autoencoder of '{name}' has the scaling_factor {vae.scaling_factor!r:.40}")
    if given := [key for key in _OF_LATENTS if getattr(vae, key, None) is not None]:
        raise ModelError(f"the autoencoder of '{name}' has {given[0]}, which Stable Diffusion's have not", hint=ONLY_SD)
    family.check(name, unet, encoders)


def check_vocabulary(name: str, ids: Collection[int], longest: Any, text_encoder: Any) -> None:
    """Raise `ModelError` unless the text encoder knows every token, by the `ids` of the tokenizer, and few others."""
    size = text_encoder.vocab_size
    if not 2 * len(ids) >= size or not 0 <= min(ids) <= max(ids) < size:
        raise ModelError(
            f"the tokenizer of the model '{name}' has {len(ids):,} tokens, numbered up to {max(ids):,}, "
            f"but its text encoder knows {size:,}",
            hint="they belong to different models, or files of the tokenizer are missing",
        )
    shortest = min(longest, text_encoder.max_position_embeddings) if isinstance(longest, int) else 0
    if shortest < _FEWEST_TOKENS:
        raise ModelError(f"the tokenizer of the model '{name}' has a model_max_length of {longest!r:.40}")


def _check_unet(name: str, family: Family, config: Mapping[str, Any]) -> None:
    """Raise `ModelError` for a UNet that needs more than its family gives: before its weights are read, which may be
    large."""
    channels = config.get("in_channels")
    if isinstance(channels, int) and channels in EXTRA_CHANNELS:
        raise ModelError(
            f"the model '{name}' is {EXTRA_CHANNELS[channels]}: its UNet reads {channels} channels", hint=ONLY_SD
        )
    extras = [key for key in _ADDED if config.get(key) not in (None, family.asks.get(key))]
    if extras:
        raise ModelError(f"the UNet of '{name}' needs more than a prompt: {', '.join(extras)}", hint=ONLY_SD)


def _no_model(name: str, directory: Path) -> ModelError:
    """What to say of a folder without an index: what it holds instead, and what of that can be named."""
    lacking = f"the model '{name}' has no {directory / INDEX}"
    files = sorted(path for path in directory.iterdir() if path.is_file()) if directory.is_dir() else []
    for pattern in (f"*/{INDEX}", f"snapshots/*/{INDEX}"):
        if inside := sorted(directory.glob(pattern)):
            return ModelError(lacking, hint=f"the folder {inside[0].parent} has one")
    if directory / layouts.CONFIG in files:
        only = layouts.class_of(read_json(name, directory / layouts.CONFIG))
        return ModelError(f"{lacking}; it is only a {only!s:.60}", hint=WHOLE_IS_NEEDED)
    if single := [path for path in files if path.name.lower().endswith(WEIGHTS)]:
        check_kind(single[0], read_shapes(single[0]))
        return ModelError(lacking, hint=f"a model in one file is named by that file: {name}={single[0]}")
    if pickled := [path for path in files if path.name.lower().endswith(PICKLED_WEIGHTS)]:
        return ModelError(f"{lacking}, and {pickled[0].name} is pickled, which can run code", hint=CONVERT)
    return ModelError(lacking, hint="a model is a directory in diffusers' layout")


def read_json(name: str, path: Path) -> dict[str, Any]:
    """The object in a configuration of the model `name`. Raises `ModelError` if there is none."""
    try:
        content = _json(path)
    except FileNotFoundError as error:
        raise ModelError(
            f"the model '{name}' has no {path}", hint="a model is a directory in diffusers' layout"
        ) from error
    except (OSError, ValueError) as error:
        what, hint = recognised(path) or (str(error), None)
        raise ModelError(f"{path} of the model '{name}' cannot be read: {what}", hint=hint) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} of the model '{name}' is not a JSON object")
    return content


def _json(path: Path) -> Any:
    """The content of a file of moderate size. Raises `OSError`, `ValueError`."""
    with path.open("rb") as file:
        data = file.read(_MAX_JSON_BYTES + 1)
    if len(data) > _MAX_JSON_BYTES:
        raise ValueError(f"it has more than {_MAX_JSON_BYTES // 2**20} MiB")
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
