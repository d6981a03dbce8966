"""A tiny model as one checkpoint file with the key names of the original Stable Diffusion release."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

EncoderNames = Literal["clip", "bare", "open_clip"]
Renames = tuple[tuple[str, str], ...]

_UNET: Renames = (
    (r"^time_embedding\.linear_1", "time_embed.0"),
    (r"^time_embedding\.linear_2", "time_embed.2"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^down_blocks\.0\.resnets\.0", "input_blocks.1.0"),
    (r"^down_blocks\.0\.attentions\.0", "input_blocks.1.1"),
    (r"^down_blocks\.0\.downsamplers\.0\.conv", "input_blocks.2.0.op"),
    (r"^down_blocks\.1\.resnets\.0", "input_blocks.3.0"),
    (r"^mid_block\.resnets\.0", "middle_block.0"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.1", "middle_block.2"),
    (r"^up_blocks\.0\.resnets\.(\d)", r"output_blocks.\1.0"),
    (r"^up_blocks\.0\.upsamplers\.0", "output_blocks.1.1"),
    (r"^up_blocks\.1\.resnets\.0", "output_blocks.2.0"),
    (r"^up_blocks\.1\.resnets\.1", "output_blocks.3.0"),
    (r"^up_blocks\.1\.attentions\.0", "output_blocks.2.1"),
    (r"^up_blocks\.1\.attentions\.1", "output_blocks.3.1"),
    (r"(blocks?\.\d\.0|middle_block\.\d)\.norm1", r"\1.in_layers.0"),
    (r"(blocks?\.\d\.0|middle_block\.\d)\.conv1", r"\1.in_layers.2"),
    (r"(blocks?\.\d\.0|middle_block\.\d)\.norm2", r"\1.out_layers.0"),
    (r"(blocks?\.\d\.0|middle_block\.\d)\.conv2", r"\1.out_layers.3"),
    (r"time_emb_proj", "emb_layers.1"),
    (r"conv_shortcut", "skip_connection"),
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
    """Write the weights of the tiny model in `model` to `file` and return it.

    The text encoder as Stable Diffusion 1 has it (`clip`), as NovelAI's release does (`bare`), or as Stable Diffusion 2
    does (`open_clip`).
    """
    unet = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(model / "vae" / "diffusion_pytorch_model.safetensors")
    encoder = {
        key.removeprefix("text_model."): value
        for key, value in load_file(model / "text_encoder" / "model.safetensors").items()
    }
    weights = {f"model.diffusion_model.{_rename(key, _UNET)}": value for key, value in unet.items()}
    weights |= {f"first_stage_model.{_vae_key(key)}": _as_convolution(key, value) for key, value in vae.items()}
    if text_encoder == "open_clip":
        weights |= {f"cond_stage_model.model.{key}": value for key, value in _open_clip(encoder).items()}
    else:
        inside = "text_model." if text_encoder == "clip" else ""
        weights |= {f"cond_stage_model.transformer.{inside}{key}": value for key, value in encoder.items()}
    save_file(weights, file)
    return file


def _open_clip(encoder: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's names; the three projections of an attention are one tensor there."""
    weights: dict[str, Tensor] = {}
    for key, value in encoder.items():
        if match := re.fullmatch(r"(.*self_attn)\.q_proj\.(weight|bias)", key):
            parts = [encoder[f"{match[1]}.{which}_proj.{match[2]}"] for which in "qkv"]
            weights[_rename(f"{match[1]}.in_proj_{match[2]}", _OPEN_CLIP)] = torch.cat(parts)
        elif not re.search(r"self_attn\.[kv]_proj", key):
            weights[_rename(key, _OPEN_CLIP)] = value
    return weights


def _rename(key: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        key = re.sub(pattern, replacement, key)
    return key


def _vae_key(key: str) -> str:
    """The original numbers the decoder's levels from the picture inwards."""
    key = re.sub(r"up_blocks\.(\d)", lambda level: f"up_blocks.{3 - int(level[1])}", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", r"up.\1.block.\2", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", r"up.\1.upsample", key)
    return _rename(key, _VAE)


def _as_convolution(key: str, value: Tensor) -> Tensor:
    """The original's attention has 1×1 convolutions where diffusers has linear layers."""
    is_linear = "attentions" in key and value.ndim == 2
    return value[:, :, None, None].contiguous() if is_linear else value
