"""Random weights of Stable Diffusion 1.4's shape: as slow as the real ones, and no download."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from farm.host import homes
from farm.settings import home
from worker.models.registry import BUILT_IN, LocalDirectory


def random_stable_diffusion() -> Path:
    """The model's directory, made at the first call and kept in the farm's home: 4 GB in float32."""
    directory = home() / "models" / "random-sd14"
    if not directory.is_dir():
        homes.make(directory.parent)
        with tempfile.TemporaryDirectory(dir=directory.parent) as partial:
            build(Path(partial) / "model")
            (Path(partial) / "model").rename(directory)
    return directory


def build(directory: Path, *, width: int = 320, side: int = 64) -> None:
    """Write the model into `directory`. `width` is the UNet's first, and `side` that of its latents.

    The tokenizer, with as many tokens as it has, and the schedule are those of the bundled model.
    """
    emoji = BUILT_IN["emoji"]
    assert isinstance(emoji, LocalDirectory)
    vocabulary = json.loads((emoji.path / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet: UNet2DConditionModel = UNet2DConditionModel(
            sample_size=side,
            block_out_channels=tuple(width * factor for factor in (1, 2, 4, 4)),
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        vae: AutoencoderKL = AutoencoderKL(
            sample_size=8 * side,
            block_out_channels=tuple(width * 2 // 5 * factor for factor in (1, 2, 4, 4)),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )
        text_encoder = CLIPTextModel(_of_clip(vocabulary))
    unet.save_pretrained(directory / "unet")
    vae.save_pretrained(directory / "vae")
    text_encoder.save_pretrained(directory / "text_encoder")
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(emoji.path / part, directory / part)
    shutil.copy(emoji.path / "model_index.json", directory)


def _of_clip(vocabulary: Mapping[str, int]) -> CLIPTextConfig:
    """The text encoder's shape, for so many tokens."""
    return CLIPTextConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        vocab_size=len(vocabulary),
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
    )
