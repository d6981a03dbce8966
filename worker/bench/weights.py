"""Random weights of published models' shapes: as slow as the real ones, and no download."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from farm.host import homes
from farm.settings import home
from worker.models.registry import BUILT_IN, LocalDirectory


def random_weights(shape: str) -> Path:
    """The directory of a model of a shape in `SHAPES`, made at the first call and kept in the farm's home.

    Of Stable Diffusion 1.4's shape it is 4 GB in float32, of SDXL's 14 GB.
    """
    directory = home() / "models" / f"random-{shape}"
    if not directory.is_dir():
        homes.make(directory.parent)
        with tempfile.TemporaryDirectory(dir=directory.parent) as partial_directory:
            SHAPES[shape](Path(partial_directory) / "model")
            (Path(partial_directory) / "model").rename(directory)
    return directory


def build(
    directory: Path,
    *,
    width: int = 320,
    side: int = 64,
    vae_width: int = 128,
    encoder: tuple[int, int] = (768, 12),
) -> None:
    """Write a model of Stable Diffusion 1's shape into `directory`. `width` is the UNet's first, and `side` that of its
    latents; `encoder` is the width of the text encoder, and how many layers it has.

    The tokenizer, with as many tokens as it has, and the schedule are those of the bundled model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet: UNet2DConditionModel = UNet2DConditionModel(
            sample_size=side,
            block_out_channels=tuple(width * factor for factor in (1, 2, 4, 4)),
            cross_attention_dim=encoder[0],
            attention_head_dim=8,
        )
        vae = _autoencoder(vae_width, side)
        text_encoder = CLIPTextModel(_of_clip(*encoder))
    _save(directory, {"unet": unet, "vae": vae, "text_encoder": text_encoder}, {})


def build_xl(
    directory: Path,
    *,
    width: int = 320,
    side: int = 128,
    depth: int = 10,
    head: int = 64,
    vae_width: int = 128,
    encoders: tuple[tuple[int, int], tuple[int, int]] = ((768, 12), (1280, 32)),
) -> None:
    """The same of SDXL's. `depth` is how many layers its deepest transformers have, `head` the width of their heads,
    and `encoders` are the widths of the text encoders and how many layers they have."""
    channels = [width * factor for factor in (1, 2, 4)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet: UNet2DConditionModel = UNet2DConditionModel(
            sample_size=side,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=tuple(channels),
            transformer_layers_per_block=(1, max(1, depth // 5), depth),
            attention_head_dim=tuple(each // head for each in channels),
            norm_num_groups=math.gcd(width, 32),
            use_linear_projection=True,
            cross_attention_dim=sum(wide for wide, _ in encoders),
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=encoders[1][0] + 6 * 256,
        )
        vae = _autoencoder(vae_width, side)
        first, second = CLIPTextModel(_of_clip(*encoders[0])), CLIPTextModelWithProjection(_of_clip(*encoders[1]))
    parts = {"unet": unet, "vae": vae, "text_encoder": first, "text_encoder_2": second}
    changes = {
        "_class_name": "StableDiffusionXLPipeline",
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }
    _save(directory, parts, changes)


SHAPES: Mapping[str, Callable[[Path], None]] = {
    "sd14": build,
    "sdxl": build_xl,
    "small-sdxl": partial(build_xl, width=48, side=16, depth=3, head=16, vae_width=32, encoders=((64, 4), (96, 4))),
}
"""By name. The small one is what a CPU renders as fast as the bundled model."""


def _save(directory: Path, parts: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Write the parts of a model, with the index of the bundled model as it is changed."""
    emoji = BUILT_IN["emoji"]
    assert isinstance(emoji, LocalDirectory)
    for folder, part in parts.items():
        part.save_pretrained(directory / folder)
        if folder.startswith("text_encoder"):
            shutil.copytree(emoji.path / "tokenizer", directory / folder.replace("text_encoder", "tokenizer"))
    shutil.copytree(emoji.path / "scheduler", directory / "scheduler")
    index = json.loads((emoji.path / "model_index.json").read_text(encoding="utf-8"))
    (directory / "model_index.json").write_text(json.dumps({**index, **changes}, indent=2), encoding="utf-8")


def _autoencoder(width: int, side: int) -> AutoencoderKL:
    autoencoder: AutoencoderKL = AutoencoderKL(
        sample_size=8 * side,
        block_out_channels=tuple(width * factor for factor in (1, 2, 4, 4)),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
    return autoencoder


def _of_clip(width: int, layers: int) -> CLIPTextConfig:
    """A text encoder's shape, for as many tokens as the bundled tokenizer has."""
    emoji = BUILT_IN["emoji"]
    assert isinstance(emoji, LocalDirectory)
    vocabulary = json.loads((emoji.path / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        vocab_size=len(vocabulary),
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
    )
