"""The tiny model as Stable Diffusion's releases lie on the hub: their indices, schedules and kinds of files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.tiny import PNDM_CONFIG

_CHECKER = ["stable_diffusion", "StableDiffusionSafetyChecker"]
_V = {**PNDM_CONFIG, "_class_name": "DDIMScheduler", "_diffusers_version": "0.8.0", "prediction_type": "v_prediction"}

RELEASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "1.4": (
        {"_diffusers_version": "0.2.2", "feature_extractor": "CLIPImageProcessor", "safety_checker": _CHECKER},
        PNDM_CONFIG,
    ),
    "1.4 of 2022": (
        {"_diffusers_version": "0.2.2", "feature_extractor": "CLIPFeatureExtractor", "safety_checker": _CHECKER},
        {key: value for key, value in PNDM_CONFIG.items() if key != "clip_sample"},
    ),
    "1.5": (
        {"_diffusers_version": "0.6.0", "feature_extractor": "CLIPImageProcessor", "safety_checker": _CHECKER},
        {**PNDM_CONFIG, "_diffusers_version": "0.6.0"},
    ),
    "2.1": (
        {
            "_diffusers_version": "0.8.0",
            "feature_extractor": "CLIPFeatureExtractor",
            "safety_checker": [None, None],
            "requires_safety_checker": False,
        },
        _V,
    ),
    "2.1 base": (
        {
            "_diffusers_version": "0.10.0.dev0",
            "feature_extractor": "CLIPImageProcessor",
            "safety_checker": [None, None],
            "requires_safety_checker": False,
        },
        {**PNDM_CONFIG, "_diffusers_version": "0.10.0.dev0", "prediction_type": "epsilon"},
    ),
}


def publish(model: Path, directory: Path, release: str) -> Path:
    """The model in `model` as that release is published, in `directory`: exactly the files that the farm asks for."""
    named, schedule = RELEASES[release]
    shutil.copytree(model, directory)
    index = json.loads((model / "model_index.json").read_text())
    extractor = ["transformers", named["feature_extractor"]]
    index |= {**named, "feature_extractor": extractor, "scheduler": ["diffusers", schedule["_class_name"]]}
    _write(directory / "model_index.json", index)
    _write(directory / "scheduler" / "scheduler_config.json", schedule)
    _write_slow_tokenizer(directory / "tokenizer")
    _write_old_names(directory)
    return directory


def _write_old_names(directory: Path) -> None:
    """Weights under the names of 2022, which the libraries still know."""
    vae = directory / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    _rename(vae, lambda key: reduce(lambda name, pair: name.replace(*pair), old.items(), key))
    encoder = directory / "text_encoder" / "model.safetensors"
    _rename(encoder, lambda key: f"text_model.{key.removeprefix('text_model.')}")
    weights = load_file(encoder)
    save_file({**weights, "text_model.embeddings.position_ids": torch.arange(77)[None]}, encoder, {"format": "pt"})


def _rename(path: Path, rename: Callable[[str], str]) -> None:
    save_file({rename(key): value for key, value in load_file(path).items()}, path, {"format": "pt"})


def _write_slow_tokenizer(directory: Path) -> None:
    """The files of a tokenizer of 2022, instead of one that holds everything."""
    whole = json.loads((directory / "tokenizer.json").read_text())["model"]
    shutil.rmtree(directory)
    directory.mkdir()
    _write(directory / "vocab.json", whole["vocab"])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in whole["merges"]]
    (directory / "merges.txt").write_text("\n".join(("#version: 0.2", *merges, "")))
    mark = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    start, end = {**mark, "content": "<|startoftext|>"}, {**mark, "content": "<|endoftext|>"}
    _write(
        directory / "special_tokens_map.json",
        {"bos_token": start, "eos_token": end, "pad_token": "<|endoftext|>", "unk_token": end},
    )
    _write(
        directory / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": {"__type": "AddedToken", **start},
            "do_lower_case": True,
            "eos_token": {"__type": "AddedToken", **end},
            "errors": "replace",
            "model_max_length": 77,
            "name_or_path": "openai/clip-vit-large-patch14",
            "pad_token": "<|endoftext|>",
            "special_tokens_map_file": "./special_tokens_map.json",
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": {"__type": "AddedToken", **end},
        },
    )


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2))
