"""How the names of weights in a LoRA file are read, in one grammar for whoever adds a file and for the worker.

| written by | of a layer `mid_block.attentions.0.proj_in` |
| --- | --- |
| kohya's scripts, LyCORIS | `lora_unet_mid_block_attentions_0_proj_in.lora_down.weight` |
| the same, after the original release | `lora_unet_middle_block_1_proj_in.lora_down.weight` |
| diffusers | `unet.mid_block.attentions.0.proj_in.lora_A.weight`, formerly `….lora.down.weight` |
| PEFT | `base_model.model.mid_block.attentions.0.proj_in.lora_A.weight` |
"""

from __future__ import annotations

import re
from dataclasses import dataclass

UNET, FIRST_ENCODER, SECOND_ENCODER = "unet", "text_encoder", "text_encoder_2"
"""Whose layers are meant, called as their folders are in diffusers' layout."""

MAX_RANK = 4_096
"""Of what is added to a layer. A layer of a UNet is at most 10,240 wide, and ranks in use are below 512."""

_WRAPPED = re.compile(r"^(?:base_model\.model\.)+|^lycoris_")
_OWNERS = (
    (re.compile(r"^(?:lora_unet[_.]|unet\.|(?:model\.)?diffusion_model\.)"), UNET),
    (re.compile(r"^(?:lora_te2[_.]|text_encoder_2\.)"), SECOND_ENCODER),
    (re.compile(r"^(?:lora_te1?[_.]|text_encoder\.)"), FIRST_ENCODER),
    (re.compile(r"^(?=text_model[_.]|encoder[_.]layers[_.])"), FIRST_ENCODER),
)
_DIRECTIONS = {"down": "down", "A": "down", "up": "up", "B": "up"}
_LOW_RANK = re.compile(r"\.lora(?:_linear_layer)?[._](down|up|A|B)(?:\.default)?(?:\.weight)?$")
_OF_PROCESSORS = re.compile(r"\.to_(q|k|v|out)_lora\.(down|up)\.weight$")
_MAGNITUDE = re.compile(r"\.lora_magnitude_vector(?:\.default)?(?:\.weight)?$")
_OTHERS = re.compile(
    r"\.(?:(lora_mid)\.weight|(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)|dora_scale|alpha))$"
)


@dataclass(frozen=True)
class Key:
    """What a weight in a LoRA file is: a `part` of what is added to a `layer` of the UNet or a text encoder (`owner`).

    A part is `down`, `up`, `magnitude` (PEFT's), `alpha`, or called as LyCORIS calls it: `lora_mid`, `hada_w1_a`,
    `lokr_w2`, `dora_scale`, ….
    A layer has underscores where its path has dots: a half of all files have lost the difference.
    """

    owner: str
    layer: str
    part: str


def parse(name: str) -> Key | None:
    """What a weight is, by its name; None if no adapter that is known has one called so."""
    if (split := _split(name)) is None:
        return None
    path, part, projection = split
    path = _WRAPPED.sub("", path.replace(".processor", ""))
    owner, start = next(((owner, found.end()) for begin, owner in _OWNERS if (found := begin.match(path))), (UNET, 0))
    if projection:
        path += _projection(projection, owner)
    layer = path[start:].replace(".", "_")
    return Key(owner, layer, part) if layer else None


def _split(name: str) -> tuple[str, str, str] | None:
    """The path of a layer, a part, and the projection of an attention where that is in the part's name."""
    if found := _LOW_RANK.search(name):
        return name[: found.start()], _DIRECTIONS[found[1]], ""
    if found := _OF_PROCESSORS.search(name):
        return name[: found.start()], found[2], found[1]
    if found := _MAGNITUDE.search(name):
        return name[: found.start()], "magnitude", ""
    if found := _OTHERS.search(name):
        return name[: found.start()], found[1] or found[2], ""
    return None


def _projection(called: str, owner: str) -> str:
    if owner == UNET:
        return ".to_out.0" if called == "out" else f".to_{called}"
    return f".{called}_proj"
