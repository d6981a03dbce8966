"""A model in diffusers' layout as one checkpoint file with the key names of the original releases."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

EncoderNames = Literal["clip", "bare", "open_clip"]
Named = dict[str, Tensor]
Renames = tuple[tuple[str, str], ...]

UNET, VAE = "model.diffusion_model.", "first_stage_model."

_RESNET: Renames = (
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"time_emb_proj", "emb_layers.1"),
    (r"conv_shortcut", "skip_connection"),
)

_UNET: Renames = (
    (r"^time_embedding\.linear_1", "time_embed.0"),
    (r"^time_embedding\.linear_2", "time_embed.2"),
    (r"^add_embedding\.linear_1", "label_emb.0.0"),
    (r"^add_embedding\.linear_2", "label_emb.0.2"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^mid_block\.resnets\.0", "middle_block.0"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.1", "middle_block.2"),
)

_VAE: Renames = (
    (r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
)


_OPEN_CLIP: Renames = (
    (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^embeddings\.token_embedding", "token_embedding"),
    (r"^final_layer_norm", "ln_final"),
    (r"^encoder\.layers", "transformer.resblocks"),
    (r"layer_norm(\d)", r"ln_\1"),
    (r"self_attn", "attn"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
)


def write_original_checkpoint(model: Path, file: Path, *, text_encoder: EncoderNames = "clip") -> Path:
    """Write the weights of the model in `model` to `file` and return it.

    The text encoder as Stable Diffusion 1 has it (`clip`), as NovelAI's release does (`bare`), or as Stable Diffusion 2
    does (`open_clip`); those of SDXL as it has them.
    """
    unet = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(model / "vae" / "diffusion_pytorch_model.safetensors")
    encoder = load_file(model / "text_encoder" / "model.safetensors")
    weights = original_unet(unet, read_config(model, "unet")) | original_vae(vae, read_config(model, "vae"))
    if (model / "text_encoder_2").is_dir():
        second = load_file(model / "text_encoder_2" / "model.safetensors")
        weights |= original_clip(encoder, "conditioner.embedders.0.transformer.text_model.")
        weights |= original_open_clip(second, "conditioner.embedders.1.model.")
    elif text_encoder == "open_clip":
        weights |= original_open_clip(encoder, "cond_stage_model.model.")
    else:
        inside = "text_model." if text_encoder == "clip" else ""
        weights |= original_clip(encoder, f"cond_stage_model.transformer.{inside}")
    save_file({key: value.contiguous() for key, value in weights.items()}, file)
    return file


def read_config(model: Path, component: str) -> Mapping[str, Any]:
    config: Mapping[str, Any] = json.loads((model / component / "config.json").read_text())
    return config


def original_unet(weights: Named, config: Mapping[str, Any]) -> Named:
    """The original has one list of blocks, on the way down and up: resnets with or without an attention each."""
    layers, attends = config["layers_per_block"], [kind.startswith("Cross") for kind in config["up_block_types"]]

    def down(found: re.Match[str]) -> str:
        block, kind, layer = int(found[1]), found[2], int(found[3])
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.op"
        return f"input_blocks.{block * (layers + 1) + layer + 1}.{int(kind == 'attentions')}"

    def up(found: re.Match[str]) -> str:
        block, kind, layer = int(found[1]), found[2], int(found[3])
        first = block * (layers + 1)
        if kind == "upsamplers":
            return f"output_blocks.{first + layers}.{1 + attends[block]}"
        return f"output_blocks.{first + layer}.{int(kind == 'attentions')}"

    def renamed(key: str) -> str:
        is_resnet = ".resnets." in key
        key = re.sub(r"^down_blocks\.(\d)\.(\w+)\.(\d)(?:\.conv(?=\.))?", down, key)
        key = re.sub(r"^up_blocks\.(\d)\.(\w+)\.(\d)", up, key)
        return _rename(_rename(key, _UNET), _RESNET if is_resnet else ())

    return {UNET + renamed(key): value for key, value in weights.items()}


def original_vae(weights: Named, config: Mapping[str, Any], prefix: str = VAE) -> Named:
    last = len(config["block_out_channels"]) - 1

    def renamed(key: str) -> str:
        """The original numbers the decoder's levels from the picture inwards."""
        key = re.sub(r"up_blocks\.(\d)", lambda level: f"up_blocks.{last - int(level[1])}", key)
        key = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", r"up.\1.block.\2", key)
        key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", r"up.\1.upsample", key)
        return _rename(key, _VAE)

    return {prefix + renamed(key): _as_convolution(key, value) for key, value in weights.items()}


def original_clip(weights: Named, prefix: str) -> Named:
    return {prefix + key.removeprefix("text_model."): value for key, value in weights.items()}


def original_open_clip(weights: Named, prefix: str) -> Named:
    """OpenCLIP's names; the three projections of an attention are one tensor there, and that of the text is turned."""
    encoder = {key.removeprefix("text_model."): value for key, value in weights.items()}
    named: Named = {}
    for key, value in encoder.items():
        if match := re.fullmatch(r"(.*self_attn)\.q_proj\.(weight|bias)", key):
            parts = [encoder[f"{match[1]}.{which}_proj.{match[2]}"] for which in "qkv"]
            named[_rename(f"{match[1]}.in_proj_{match[2]}", _OPEN_CLIP)] = torch.cat(parts)
        elif key == "text_projection.weight":
            named["text_projection"] = value.T
        elif not re.search(r"self_attn\.[kv]_proj", key):
            named[_rename(key, _OPEN_CLIP)] = value
    return {prefix + key: value for key, value in named.items()}


def averaged(key: str) -> str:
    """Where a release has the average of a weight of the UNet."""
    return "model_ema." + key.removeprefix("model.").replace(".", "")


def _rename(key: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        key = re.sub(pattern, replacement, key)
    return key


def _as_convolution(key: str, value: Tensor) -> Tensor:
    """The original's attention has 1×1 convolutions where diffusers has linear layers."""
    is_linear = "attentions" in key and value.ndim == 2
    return value[:, :, None, None] if is_linear else value
