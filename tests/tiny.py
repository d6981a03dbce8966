"""Random models of Stable Diffusion's layouts, small enough to build and load in a fraction of a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

TOKENS = 77
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = ("an", "the", "of", "in", "on", "cat", "otter", "giraffe", "apple", "red", "blue", "neck", "long")

LMS_CONFIG: dict[str, Any] = {
    "_class_name": "LMSDiscreteScheduler",
    "_diffusers_version": "0.42.1",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}
PNDM_CONFIG: dict[str, Any] = {
    **LMS_CONFIG,
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.2.2",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "trained_betas": None,
    "clip_sample": False,
}


def build_tiny_model(
    directory: Path,
    *,
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
    seed: int = 0,
    scheduler_config: dict[str, Any] = LMS_CONFIG,
    unet: dict[str, Any] | None = None,
) -> Path:
    """Write the model into `directory` (made if missing) and return it. Equal arguments give equal weights.

    Images are 64×64 by default (latents 8×8, factor 8), 77 tokens of width 32. `scheduler_config` is
    `LMS_CONFIG`, `PNDM_CONFIG` (as Stable Diffusion 1.4 is published) or another. As there, the index names parts that
    the farm never loads, and the folder does not have them. `unet` changes the UNet's settings.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _unet(**(unet or {})).save_pretrained(directory / "unet")
        _autoencoder().save_pretrained(directory / "vae")
        tokenizer = _tokenizer()
        _text_encoder(tokenizer).save_pretrained(directory / "text_encoder")
    tokenizer.save_pretrained(directory / "tokenizer")
    _write_json(
        directory / "scheduler" / "scheduler_config.json", {**scheduler_config, "prediction_type": prediction_type}
    )
    _write_json(
        directory / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.2.2",
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
            "scheduler": ["diffusers", scheduler_config["_class_name"]],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    return directory


XL_CONFIG: dict[str, Any] = {
    **LMS_CONFIG,
    "_class_name": "EulerDiscreteScheduler",
    "interpolation_type": "linear",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}


def build_tiny_xl(
    directory: Path,
    *,
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
    seed: int = 0,
    zeros_for_nothing: bool = True,
    pooled: int = 24,
    unet: dict[str, Any] | None = None,
) -> Path:
    """Write a model of SDXL's layout into `directory`, as `build_tiny_model` does.

    Images are 64×64 by default, 77 tokens of widths 32 and 48, side by side, and the whole prompt's width is `pooled`.
    The second tokenizer pads with another token, as published. `unet` changes the UNet's settings.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _unet(
            cross_attention_dim=80,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=pooled + 6 * 8,
            transformer_layers_per_block=(1, 2),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            **(unet or {}),
        ).save_pretrained(directory / "unet")
        _autoencoder().save_pretrained(directory / "vae")
        first, second = _tokenizer(), _tokenizer(pad="!")
        _text_encoder(first).save_pretrained(directory / "text_encoder")
        _second_text_encoder(second, pooled).save_pretrained(directory / "text_encoder_2")
    first.save_pretrained(directory / "tokenizer")
    second.save_pretrained(directory / "tokenizer_2")
    _write_json(directory / "scheduler" / "scheduler_config.json", {**XL_CONFIG, "prediction_type": prediction_type})
    _write_json(
        directory / "model_index.json",
        {
            "_class_name": "StableDiffusionXLPipeline",
            "_diffusers_version": "0.19.0.dev0",
            "force_zeros_for_empty_prompt": zeros_for_nothing,
            "add_watermarker": None,
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    return directory


def build_tiny_clip(directory: Path) -> Path:
    """Write a CLIP that sees 32×32 pixels and reads the tiny models' tokens into `directory`, and return it."""
    tokenizer = _tokenizer()
    vocabulary = tokenizer.get_vocab()
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    marks = {"bos_token_id": vocabulary[START], "eos_token_id": vocabulary[END], "pad_token_id": vocabulary[END]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(
            CLIPConfig(
                text_config={**small, **marks, "vocab_size": len(tokenizer), "max_position_embeddings": TOKENS},
                vision_config={**small, "image_size": 32, "patch_size": 8},
                projection_dim=16,
            )
        ).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _unet(**changes: Any) -> UNet2DConditionModel:
    settings: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    unet: UNet2DConditionModel = UNet2DConditionModel(**settings | changes)
    # A trained model's x₀ has the size of a latent; this one's grows with σ·output. A small output keeps float32's
    # rounding, which guidance and σ amplify a hundredfold, far below the tolerances of the tests.
    with torch.no_grad():
        unet.conv_out.weight.mul_(0.2)
    return unet


def _autoencoder() -> AutoencoderKL:
    autoencoder: AutoencoderKL = AutoencoderKL(
        sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.18215,
    )
    return autoencoder


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    vocabulary = tokenizer.get_vocab()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=vocabulary[START],
            eos_token_id=vocabulary[END],
            pad_token_id=vocabulary[END],
        )
    )


def _second_text_encoder(tokenizer: CLIPTokenizer, pooled: int) -> CLIPTextModelWithProjection:
    vocabulary = tokenizer.get_vocab()
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=pooled,
            hidden_act="gelu",
            bos_token_id=vocabulary[START],
            eos_token_id=vocabulary[END],
            pad_token_id=vocabulary["!"],
        )
    )


def _tokenizer(pad: str = END) -> CLIPTokenizer:
    """Bytes as CLIP writes them, and a few words that are one token each; any text can be encoded."""
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(letter + "</w>" for letter in letters)]
    merges: list[Any] = []
    for word in WORDS:
        merges += _merges(word)
    pieces += [left + right for left, right in merges]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys([*pieces, START, END]))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=list(dict.fromkeys(merges)),
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=pad,
        model_max_length=TOKENS,
    )


def _merges(word: str) -> list[tuple[str, str]]:
    """The merges that build `word` letter by letter, its end mark included."""
    symbols = [*word[:-1], word[-1] + "</w>"]
    return [("".join(symbols[:k]), symbols[k]) for k in range(1, len(symbols))]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
