"""What a single file of weights is, from the names and shapes in its header alone.

Only a whole checkpoint of Stable Diffusion 1, 2 or XL in its original layout is loaded; all else is refused as what it
is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from farm.errors import ModelError
from farm.layouts import BASE_IS_NEEDED, ONLY_SD, REFINER
from worker.models.weights import Shapes

Architecture = Literal["sd1", "sd2", "sdxl"]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT_ENCODERS = ("cond_stage_model.", "conditioner.embedders.")
"""Those of Stable Diffusion 1 and 2, and of later releases, which number them."""
SECOND_ENCODER = "conditioner.embedders.1."

_BLOCKS = UNET + "input_blocks."
_FIRST_LAYER = _BLOCKS + "0.0.weight"
_ATTENTION = re.compile(re.escape(UNET) + r".*\.attn2\.to_k\.weight")
EXTRA_CHANNELS = {
    8: "a model that edits pictures by instructions",
    7: "an upscaler",
    5: "a model that is guided by depth",
}
_LABELS = UNET + "label_emb."
"""Of a UNet that reads more than words: of SDXL a prompt as a whole, and sizes."""
_ASKING = ("addition_embed_type", "class_embed_type")
"""How the configuration of such a UNet says so."""
_OF_TEXTS = ("text_model.", "text_projection.", "logit_scale")
_MOST_OF_AN_EMBEDDING = 4
_ARCHITECTURES: dict[tuple[int, bool], Architecture] = {(768, False): "sd1", (1024, False): "sd2", (2048, True): "sdxl"}
TITLES: dict[Architecture, str] = {
    "sd1": "Stable Diffusion 1",
    "sd2": "Stable Diffusion 2",
    "sdxl": "Stable Diffusion XL",
}

WHOLE_IS_NEEDED = (
    "the whole model is needed: UNet, autoencoder and text encoders in one file, or a folder in diffusers' layout"
)
_ADD = "'farm loras add NAME=FILE' adds it for jobs to name"
_PLAIN = "use its plain weights, in float32, float16 or bfloat16"


def _named(pattern: str) -> Callable[[Shapes], bool]:
    search = re.compile(pattern).search
    return lambda shapes: any(search(key) for key in shapes)


def _is_embedding(shapes: Shapes) -> bool:
    few = len(shapes) <= _MOST_OF_AN_EMBEDDING
    return few and all(len(shape) in (1, 2) for shape in shapes.values()) and any(shapes.values())


def _is_refiner(shapes: Shapes) -> bool:
    keys = [key for key in shapes if key.startswith((_LABELS, *TEXT_ENCODERS))]
    has_label = any(key.startswith(_LABELS) for key in keys)
    has_encoder = any(key.startswith("conditioner.embedders.0.model.") for key in keys)
    return has_label and has_encoder and not any(key.startswith(SECOND_ENCODER) for key in keys)


_KINDS: tuple[tuple[Callable[[Shapes], bool], str, str], ...] = (
    (_named(r"^lora_|[._]lora[._]|\.hada_w|\.lokr_w|\.oft_(blocks|diag)"), "a LoRA", _ADD),
    (
        _named(r"control_model\.|input_hint_block\.|controlnet_cond_embedding\.|^controlnet_blocks\."),
        "a ControlNet",
        ONLY_SD,
    ),
    (_named(r"^image_proj\.|^ip_adapter\."), "an IP-Adapter", ONLY_SD),
    (_named(r"^(adapter\.)?body\.\d+\.(block1|resnets)\."), "a T2I-Adapter", ONLY_SD),
    (_named(r"motion_modules\."), "a motion module", ONLY_SD),
    (_named(r"\.(time_stack|time_mixer|temporal_transformer)\b"), "a model that makes videos", ONLY_SD),
    (_named(r"\.rdb1\.conv1\.|\.RDB1\.conv1\."), "an upscaler of finished pictures (ESRGAN)", ONLY_SD),
    (
        _named(r"\.(absmax|quant_map|quant_state|weight_scale|scale_weight)\b|^scaled_fp8$"),
        "quantised",
        _PLAIN,
    ),
    (_named(r"\.(qweight|qzeros|SCB|weight_format)$"), "quantised", _PLAIN),
    (_named(r"joint_blocks\."), "Stable Diffusion 3", ONLY_SD),
    (_named(r"double_blocks\.|single_transformer_blocks\."), "Flux", ONLY_SD),
    (_named(r"^edm_mean$|^edm_vpred\."), "of noise levels of its own (EDM)", ONLY_SD),
    (_named(r"time_embed\.cond_proj\."), "a latent consistency model, whose UNet reads the guidance", ONLY_SD),
    (_is_refiner, REFINER, BASE_IS_NEEDED),
    (_named(r"^add_embedding\."), "only a UNet of SDXL, in diffusers' layout", WHOLE_IS_NEEDED),
    (_named(r"^vision_model\."), "an encoder of pictures", ONLY_SD),
    (_named(r"^encoder\.block\.\d+\.layer\."), "a text encoder (T5)", ONLY_SD),
    (_is_embedding, "a textual inversion, which is one word's embedding", ONLY_SD),
)


def check_kind(path: Path, shapes: Shapes) -> None:
    """Raise `ModelError`, with what it is, unless a file's weights are a checkpoint of Stable Diffusion.

    Whether it is whole is seen when it is read.
    """
    if found := _recognised(shapes):
        what, hint = found
        raise ModelError(f"{path} is {what}, not a checkpoint that can be loaded", hint=hint)
    held = _held(shapes)
    if not any(key.startswith(_BLOCKS) for key in shapes) or held == {UNET}:
        raise ModelError(f"{path} is {_part(shapes, held)}", hint=WHOLE_IS_NEEDED if shapes else None)
    channels = channels_read(shapes)
    if channels in EXTRA_CHANNELS:
        raise ModelError(f"{path} is {EXTRA_CHANNELS[channels]}: its UNet reads {channels} channels", hint=ONLY_SD)


def channels_read(shapes: Shapes) -> int:
    """How many channels a checkpoint's UNet reads: 4 of latents, and 5 more in an inpainting model; 0: unknown."""
    return next(iter(shapes.get(_FIRST_LAYER, ())[1:2]), 0)


def told(shapes: Shapes) -> str:
    """What a file is that is something else than was hoped for."""
    if found := _recognised(shapes):
        return found[0]
    held = _held(shapes)
    return "a checkpoint" if {UNET, VAE} <= held else _part(shapes, held)


def architecture(name: str, path: Path, shapes: Shapes) -> Architecture:
    """That of a checkpoint. Raises `ModelError` if it is none of those that are known."""
    width, has_labels = _width(shapes), _has_labels(shapes)
    found = _ARCHITECTURES.get((width, has_labels)) if width else None
    if found is None:
        raise ModelError(
            f"the checkpoint {path} is of an architecture that is not known: it reads {_read(width, has_labels)}",
            hint=_like_it(name, path),
        )
    return found


def check_config(name: str, path: Path, shapes: Shapes, config: Path, unet: Mapping[str, Any]) -> None:
    """Raise `ModelError` unless a checkpoint's UNet reads what the configuration in `config` says, of its `unet`: texts
    as wide, which each generation has wider, and more than words or not."""
    width, has_labels = _width(shapes), _has_labels(shapes)
    expected, asks = unet.get("cross_attention_dim"), any(unet.get(key) for key in _ASKING)
    if width in (None, expected) and has_labels == asks:
        return
    known = _ARCHITECTURES.get((width or 0, has_labels))
    raise ModelError(
        f"the checkpoint {path} is {TITLES[known] if known else 'of another architecture'}: it reads "
        f"{_read(width, has_labels)}, and by the configuration in {config} {_read(expected, asks)}",
        hint="leave out #config" if known else _like_it(name, path),
    )


def _read(width: Any, more: bool) -> str:
    return f"texts of width {width!s:.40}{' and more' if more else ''}"


def _like_it(name: str, path: Path) -> str:
    return f"name a folder with the configuration of a model like it: {name}={path}#config=DIRECTORY"


def _has_labels(shapes: Shapes) -> bool:
    return any(key.startswith(_LABELS) for key in shapes)


def _recognised(shapes: Shapes) -> tuple[str, str] | None:
    return next(((what, hint) for fits, what, hint in _KINDS if fits(shapes)), None)


def _held(shapes: Shapes) -> set[str]:
    return {part for part in (UNET, VAE, *TEXT_ENCODERS) if any(key.startswith(part) for key in shapes)}


def _width(shapes: Shapes) -> int | None:
    return next((shape[-1] for key, shape in shapes.items() if _ATTENTION.fullmatch(key) and shape), None)


def _part(shapes: Shapes, held: set[str]) -> str:
    """What a file is that lacks a UNet in the original layout, or all else."""
    if not shapes:
        return "a file without any weights"
    if UNET in held and any(key.startswith(_BLOCKS) for key in shapes):
        return "only a UNet"
    if UNET in held:
        typical = min(key for key in shapes if key.startswith(UNET))
        return f"of another architecture: its weights have names such as {typical!r:.80}"
    if held == {VAE} or {"encoder.conv_in.weight", "decoder.conv_in.weight"} & set(shapes):
        return "only an autoencoder (VAE)"
    if (held and held <= set(TEXT_ENCODERS)) or all(key.startswith(_OF_TEXTS) for key in shapes):
        return "only a text encoder"
    if "conv_in.weight" in shapes and any(key.startswith("down_blocks.") for key in shapes):
        return "only a UNet, in diffusers' layout"
    if "input_blocks.0.0.weight" in shapes:
        return "only a UNet"
    return f"not a checkpoint of Stable Diffusion: its weights have names such as {min(shapes)!r:.80}"
