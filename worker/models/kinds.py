"""What a single file of weights is, from the names and shapes in its header alone.

Only a whole checkpoint of Stable Diffusion 1 or 2 in its original layout is loaded; all else is refused as what it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from farm.errors import ModelError
from worker.models.weights import Shapes

UNET, VAE, TEXT_ENCODER = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."

_BLOCKS = UNET + "input_blocks."
_FIRST_LAYER = _BLOCKS + "0.0.weight"
_ATTENTION = re.compile(re.escape(UNET) + r".*\.attn2\.to_k\.weight")
EXTRA_CHANNELS = {
    9: "an inpainting model",
    8: "a model that edits pictures by instructions",
    7: "an upscaler",
    5: "a model that is guided by depth",
}
_OF_TEXTS = ("text_model.", "text_projection.", "logit_scale")
_MOST_OF_AN_EMBEDDING = 4
_GENERATIONS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2"}

ONLY_SD = "use a text-to-image model of Stable Diffusion 1, 2 or XL"
WHOLE_IS_NEEDED = (
    "the whole model is needed: UNet, autoencoder and text encoder in one file, or a folder in diffusers' layout"
)
_MERGE = "merge it into its base model, and load that"


def _named(pattern: str) -> Callable[[Shapes], bool]:
    search = re.compile(pattern).search
    return lambda shapes: any(search(key) for key in shapes)


def _is_embedding(shapes: Shapes) -> bool:
    few = len(shapes) <= _MOST_OF_AN_EMBEDDING
    return few and all(len(shape) in (1, 2) for shape in shapes.values()) and any(shapes.values())


_KINDS: tuple[tuple[Callable[[Shapes], bool], str, str], ...] = (
    (_named(r"^lora_|[._]lora[._]|\.hada_w|\.lokr_w"), "a LoRA", _MERGE),
    (_named(r"control_model\.|input_hint_block\.|controlnet_cond_embedding\."), "a ControlNet", ONLY_SD),
    (_named(r"motion_modules\."), "a motion module", ONLY_SD),
    (_named(r"joint_blocks\."), "Stable Diffusion 3", ONLY_SD),
    (_named(r"double_blocks\.|single_transformer_blocks\."), "Flux", ONLY_SD),
    (_named(r"^conditioner\.embedders\.|^add_embedding\."), "SDXL", ONLY_SD),
    (_named(r"^model\.diffusion_model\.label_emb\."), "a model that needs more than a prompt", ONLY_SD),
    (_named(r"\.(absmax|quant_map|quant_state|scale_weight)\b|^scaled_fp8$"), "quantised", "use its plain weights"),
    (_is_embedding, "a textual inversion, which is one word's embedding", ONLY_SD),
)


def check_kind(path: Path, shapes: Shapes) -> None:
    """Raise `ModelError`, with what it is, unless a file's weights are a checkpoint of Stable Diffusion 1 or 2."""
    for fits, what, hint in _KINDS:
        if fits(shapes):
            raise ModelError(f"{path} is {what}, not a checkpoint that can be loaded", hint=hint)
    held = {part for part in (UNET, VAE, TEXT_ENCODER) if any(key.startswith(part) for key in shapes)}
    if not any(key.startswith(_BLOCKS) for key in shapes):
        raise ModelError(f"{path} is {_part(shapes, held)}", hint=WHOLE_IS_NEEDED if shapes else None)
    channels = next(iter(shapes.get(_FIRST_LAYER, ())[1:2]), 0)
    if channels in EXTRA_CHANNELS:
        raise ModelError(f"{path} is {EXTRA_CHANNELS[channels]}: its UNet reads {channels} channels", hint=ONLY_SD)
    for part, what in ((VAE, "autoencoder"), (TEXT_ENCODER, "text encoder")):
        if part not in held:
            raise ModelError(
                f"{path} has no {what}", hint=f"save it again with its {what} in it, as tools for merging can"
            )


def check_width(name: str, path: Path, shapes: Shapes, config: Path, expected: Any) -> None:
    """Raise `ModelError` unless a checkpoint attends to texts as wide as the configuration that it is read with says.

    Stable Diffusion 2's are wider than 1's. Whether they predict ε or v is not in a checkpoint: only the configuration
    tells.
    """
    width = next((shape[-1] for key, shape in shapes.items() if _ATTENTION.fullmatch(key) and shape), None)
    if width is None or width == expected:
        return
    what = _GENERATIONS.get(width, "another architecture")
    hint = f"name a folder with the configuration of a model like it: {name}={path}#config=DIRECTORY"
    if width == max(_GENERATIONS):
        hint += "; of Stable Diffusion 2's, those for 768 pixels predict v and those for 512 pixels ε"
    raise ModelError(
        f"the checkpoint {path} is {what}: it reads texts of width {width}, and by the configuration in {config} "
        f"they are of width {expected}",
        hint=hint,
    )


def _part(shapes: Shapes, held: set[str]) -> str:
    """What a file is that lacks a UNet in the original layout."""
    if not shapes:
        return "a file without any weights"
    if UNET in held:
        typical = min(key for key in shapes if key.startswith(UNET))
        return f"of another architecture: its weights have names such as {typical!r:.80}"
    if held == {VAE} or {"encoder.conv_in.weight", "decoder.conv_in.weight"} & set(shapes):
        return "only an autoencoder (VAE)"
    if held == {TEXT_ENCODER} or all(key.startswith(_OF_TEXTS) for key in shapes):
        return "only a text encoder"
    if "conv_in.weight" in shapes and any(key.startswith("down_blocks.") for key in shapes):
        return "only a UNet, in diffusers' layout"
    if "input_blocks.0.0.weight" in shapes:
        return "only a UNet"
    return f"not a checkpoint of Stable Diffusion: its weights have names such as {min(shapes)!r:.80}"
