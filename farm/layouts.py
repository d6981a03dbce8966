"""What a model consists of, in a folder of diffusers' layout or in one file: one table, by which it is looked at before
the farm keeps it and before a worker loads it.

Read are configurations and names; what is in weights is for those who can open them. What is wrong is told as it
follows on the model's name in a sentence, with a hint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm.disguises import CONVERT
from farm.keys import PICKLED_WEIGHTS, WEIGHTS

INDEX, CONFIG, UNET, VAE = "model_index.json", "config.json", "unet", "vae"
SCHEDULER = "scheduler/scheduler_config.json"
ONLY_SD = "use a text-to-image model of Stable Diffusion 1, 2 or XL"
REFINER, BASE_IS_NEEDED = "the refiner of SDXL, which only refines what SDXL's base model made", "use the base model"
FETCH_AGAIN = "fetch it again"

Fault = tuple[str, str | None]
"""What is wrong with a model, and a hint."""
ZERO_SNR_NEEDS_V: Fault = (
    "cannot begin at a signal-to-noise ratio of zero, for it predicts noise",
    "add #prediction=v if it predicts v; else leave out #ztsnr",
)
"""Where all is noise, what was added says nothing of the picture (Lin et al. 2023, arXiv:2305.08891)."""
MARKS_V, MARKS_ZERO_SNR = "v_pred", "ztsnr"
"""Weights, empty by custom, by which a model in one file says that it predicts v, and begins at that ratio."""
TELLS_PREDICTION = "modelspec.prediction_type"
"""What programs that train models note in a file's metadata (https://github.com/Stability-AI/ModelSpec)."""
V_WORDS = ("v", "v_prediction")


@dataclass(frozen=True)
class Part:
    """A part of a model, as people call it.

    In a folder it is of one of the classes `kinds` (none: of any), has all `files` of one of these sets, and weights
    that are called `stem` before marks and endings, if it has any. In one file its weights' names begin with one of the
    `prefixes`.
    """

    title: str
    kinds: tuple[str, ...]
    files: tuple[tuple[str, ...], ...]
    stem: str | None = None
    prefixes: tuple[str, ...] = ()


_CONFIGURED = ((CONFIG,),)
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast"), (("tokenizer.json",), ("vocab.json", "merges.txt"))
_OF_FIRST_ENCODER = (
    *("cond_stage_model.transformer.", "cond_stage_model.model."),
    *("conditioner.embedders.0.transformer.", "conditioner.embedders.0.model."),
)
_OF_SECOND_ENCODER = ("conditioner.embedders.1.model.",)

PARTS: Mapping[str, Part] = {
    UNET: Part("UNet", ("UNet2DConditionModel",), _CONFIGURED, "diffusion_pytorch_model", ("model.diffusion_model.",)),
    VAE: Part("autoencoder", ("AutoencoderKL",), _CONFIGURED, "diffusion_pytorch_model", ("first_stage_model.",)),
    "text_encoder": Part("text encoder", ("CLIPTextModel",), _CONFIGURED, "model", _OF_FIRST_ENCODER),
    "tokenizer": Part("tokenizer", *_TOKENIZERS),
    "text_encoder_2": Part(
        "second text encoder", ("CLIPTextModelWithProjection",), _CONFIGURED, "model", _OF_SECOND_ENCODER
    ),
    "tokenizer_2": Part("second tokenizer", *_TOKENIZERS),
    "scheduler": Part("scheduler", (), (("scheduler_config.json",),)),
}
"""Every part of any family's, by its folder."""
STEMS: Mapping[str, str] = {name: part.stem for name, part in PARTS.items() if part.stem}
"""What the weights of each part are called, that has any."""
WITH_SECOND_ENCODER: Mapping[str, str] = {"addition_embed_type": "text_time"}
"""What a UNet's configuration asks for where there is a second text encoder: SDXL's."""

_OF_THE_REFINER = "requires_aesthetics_score"
"""It is told how beautiful its picture is, in the place of the size that that was cut to, and reads one encoder."""
_PIPELINES = (
    *("StableDiffusionPipeline", "StableDiffusionXLPipeline"),
    *("StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline"),
)
_MARKS = ("", ".fp16")
_SHARD = re.compile(r"\w[\w.-]*\.safetensors")
_MAX_SHARDS = 1_000
_MAX_NOISE_LEVELS = 100_000
"""So many fit into memory."""


def parts_of(unet: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts of a model, by the configuration of its UNet."""
    has_second = all(unet.get(key) == value for key, value in WITH_SECOND_ENCODER.items())
    return tuple(name for name in PARTS if has_second or not name.endswith("_2"))


# Folders


def unfit(folder: Path, read: Callable[[Path], Mapping[str, Any]]) -> Fault | None:
    """Why a folder with an index cannot be loaded, by its parts and their configurations; None if it may be.

    Weights are not looked for. `read` gives the object in a file of JSON, and raises for what is none.
    """
    index = read(folder / INDEX)
    if index.get(_OF_THE_REFINER) is True and index.get("text_encoder") in (None, [None, None]):
        return f"is {REFINER}", BASE_IS_NEEDED
    of_unet = folder / UNET / CONFIG
    parts = parts_of(read(of_unet) if of_unet.is_file() else {})
    for name in parts:
        if said := _of_another_class(name, _named(index.get(name)), INDEX):
            return said + _pipeline(index), ONLY_SD
    if lacks := [file for name in parts for file in _lacking(folder / name, PARTS[name])]:
        return f"has no {' and no '.join(lacks)}", FETCH_AGAIN
    for name in parts:
        if PARTS[name].stem and (said := _of_another_class(name, class_of(read(folder / name / CONFIG)), CONFIG)):
            return said, ONLY_SD
    return _unscheduled(read(folder / SCHEDULER))


def _unscheduled(scheduler: Mapping[str, Any]) -> Fault | None:
    """Why a model cannot be followed over the noise levels that it was trained on; None if it may be."""
    if scheduler.get("use_flow_sigmas") or "FlowMatch" in str(scheduler.get("_class_name")):
        return "is trained by flow matching", ONLY_SD
    levels = scheduler.get("num_train_timesteps", 1_000)
    if not isinstance(levels, int) or isinstance(levels, bool) or not 1 <= levels <= _MAX_NOISE_LEVELS:
        return f"says that it was trained on {levels!r:.40} noise levels", None
    return None


def class_of(config: Mapping[str, Any]) -> str | None:
    """The class that a part's configuration says."""
    architectures = config.get("architectures")
    only = architectures[0] if isinstance(architectures, list) and architectures else None
    named = config.get("_class_name") or only
    return named if isinstance(named, str) else None


def _pipeline(index: Mapping[str, Any]) -> str:
    """What a model is by its index, where that is none of what is loaded."""
    named = index.get("_class_name")
    return "" if named in (None, *_PIPELINES) else f": it is a {named!s:.60}"


def _named(found: Any) -> str | None:
    """The class that an index names for a part: `["diffusers", "AutoencoderKL"]`."""
    return str(found[1]) if isinstance(found, list) and len(found) == 2 and found[1] is not None else None


def _of_another_class(name: str, found: str | None, where: str) -> str | None:
    expected = PARTS[name].kinds
    if not expected or found in expected:
        return None
    if found is None:
        return f"has no {name} in its {where}" if where == INDEX else f"says no class in {name}/{where}"
    return f"has as its {name} {found:.60}, not {expected[0]}"


def _lacking(folder: Path, part: Part) -> Iterable[str]:
    """The files that a part lacks, as they are written below the model's folder."""
    if not any(all((folder / file).is_file() for file in files) for files in part.files):
        first, *others = (" and ".join(files) for files in part.files)
        yield f"{folder.name}/{first}" + (f" (or {others[0]})" if others else "")


# Weights in folders


def chosen(names: Collection[str], stem: str) -> tuple[str, ...]:
    """The files among `names` that hold a part's weights: in full precision rather than in half, in one file rather
    than in shards, and of shards the index first. Empty if there are none."""
    for mark in _MARKS:
        if (whole := f"{stem}{mark}.safetensors") in names:
            return (whole,)
        for index in (f"{stem}.safetensors.index{mark}.json", f"{stem}{mark}.safetensors.index.json"):
            if index in names:
                number, marked = r"-\d+-of-\d+", re.escape(mark)
                shard = re.compile(rf"{stem}({marked}{number}|{number}{marked})\.safetensors")
                return (index, *sorted(name for name in names if shard.fullmatch(name)))
    return ()


def weights_among(files: Collection[str]) -> list[str]:
    """Of a model's files the weights that are loaded, in one precision each."""
    found: list[str] = []
    for part, stem in STEMS.items():
        names = {file.removeprefix(f"{part}/") for file in files if file.startswith(f"{part}/")}
        found += [f"{part}/{name}" for name in chosen(names, stem)]
    return found


def without_weights(name: str, names: Collection[str]) -> Fault:
    """What is wrong with a part of whose files none is chosen."""
    stem = STEMS[name]
    if others := sorted(found for found in names if found.lower().endswith(WEIGHTS)):
        called = f"weights are called {stem}{WEIGHTS} or {stem}.fp16{WEIGHTS}, or are shards with their index"
        return f"has no {stem}{WEIGHTS} in {name}, but {others[0]}", called
    if pickled := sorted(found for found in names if found.lower().endswith(PICKLED_WEIGHTS)):
        return f"has only pickled weights in {name} ({pickled[0]}), which can run code", CONVERT
    return f"has no {WEIGHTS} weights in {name}", FETCH_AGAIN


def shards_by_weight(content: Any) -> dict[str, str]:
    """What an index of shards says: the file of each weight. Raises `ValueError`, `TypeError`, `KeyError` if it is
    none."""
    index = dict(content["weight_map"])
    if not all(isinstance(shard, str) for shard in index.values()):
        raise ValueError("its shards are not named by strings")
    if not 1 <= len(set(index.values())) <= _MAX_SHARDS:
        raise ValueError(f"it names {len(set(index.values())):,} shards")
    return index


def astray(name: str, index: Mapping[str, str], names: Collection[str]) -> Fault | None:
    """What is wrong with the shards that an index names, beside the files of these `names` in a part's folder."""
    shards = set(index.values())
    if strange := sorted(shard for shard in shards if not _SHARD.fullmatch(shard)):
        return (
            f"has an index in {name} that names {strange[0]!r:.80}",
            "shards are .safetensors files in the folder of their index",
        )
    if missing := sorted(shards - set(names)):
        return f"lacks {len(missing)} of {len(shards)} shards in {name}, such as {missing[0]}", FETCH_AGAIN
    return None


def lost(name: str, index: Mapping[str, str], held: Mapping[str, Collection[str]]) -> Fault | None:
    """Whether a shard lacks what the index says is there, by the names of weights that each holds."""
    if found := sorted(key for key, shard in index.items() if key not in held[shard]):
        where = f"{name}/{index[found[0]]}"
        return f"lacks {found[0]!r:.80} in {where}, which its index says is there", FETCH_AGAIN
    return None


# Weights in one file


def lacking_in_file(keys: Collection[str], parts: Iterable[str]) -> str | None:
    """The first of the parts of which a file holds no weight, by the names of all that it holds."""
    wanted = (name for name in parts if PARTS[name].prefixes)
    return next((name for name in wanted if not any(key.startswith(PARTS[name].prefixes) for key in keys)), None)


def hint_in_file(part: str, source: str) -> str:
    """What to do about a file that lacks a part: `source` is how it is named, `mine=FILE`."""
    if part == VAE:
        return f"name one: {source}#vae=FILE"
    return f"save it again with its {PARTS[part].title} in it"
