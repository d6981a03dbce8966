"""Folders and files that look like models to whoever reads headers and configurations alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ORIGINAL = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
LABELS = "model.diffusion_model.label_emb.0.0.weight"
"""A weight that only SDXL's UNet has."""
_OF_VAE = "first_stage_model.decoder.conv_in.weight"
_OF_SD, _OF_XL = (
    "cond_stage_model.transformer.x",
    ("conditioner.embedders.0.transformer.x", "conditioner.embedders.1.model.x"),
)


def checkpoint(width: int = 768, *, vae: bool = True) -> dict[str, tuple[int, ...]]:
    """A few weights of each part of a checkpoint, whose UNet reads texts of this width: SDXL's of 2,048."""
    of_encoders = _OF_XL if width == 2048 else (_OF_SD,)
    labels = {LABELS: (1, 1)} if width == 2048 else {}
    return {ORIGINAL: (2, width), **labels, **dict.fromkeys(of_encoders, (1,)), **({_OF_VAE: (8, 8)} if vae else {})}


def write_weights(
    path: Path, shapes: Mapping[str, tuple[int, ...]], *, fill: int = 0, metadata: Mapping[str, str] | None = None
) -> Path:
    """A file of safetensors whose weights are bytes, all of them `fill`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name, shape in shapes.items():
        size = 1
        for side in shape:
            size *= side
        header[name] = {"dtype": "U8", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    said = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(said).to_bytes(8, "little") + said + bytes([fill]) * end)
    return path


def write_folder(folder: Path, *, width: int = 768, fill: int = 0) -> Path:
    """A model in diffusers' layout, whose UNet reads texts of this width."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(folder / "model_index.json", index)
    write_json(folder / "scheduler" / "scheduler_config.json", {})
    for name in ("vocab.json", "tokenizer_config.json"):
        write_json(folder / "tokenizer" / name, {})
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    write_json(folder / "unet" / "config.json", {"_class_name": "UNet2DConditionModel"})
    write_json(folder / "vae" / "config.json", {"_class_name": "AutoencoderKL"})
    write_json(folder / "text_encoder" / "config.json", {"architectures": ["CLIPTextModel"]})
    attention = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    write_weights(folder / "unet" / "diffusion_pytorch_model.safetensors", {attention: (2, width)}, fill=fill)
    write_weights(folder / "vae" / "diffusion_pytorch_model.safetensors", {"conv_in.weight": (8, 8)})
    write_weights(folder / "text_encoder" / "model.safetensors", {"text_model.embeddings": (16, 4)})
    return folder


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
