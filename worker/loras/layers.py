"""The layers of a model to which a LoRA can add, by every name that files give them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from farm.lora_keys import UNET
from worker.diffusion.cross_attention import CachedProjection
from worker.models.model import LoadedModel

_INSIDE = "text_model."
"""Releases of transformers differ in whether a text encoder is a module inside a module."""
_IN_A_BLOCK = re.compile(r"(?:(?:down|up)_blocks\.\d+|mid_block)\.\w+\.\d+")
_OF_RESNETS = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer or a convolution: whose it is (see `farm.lora_keys.Key`), what diffusers calls it, the `path` at
    which `get_submodule` finds the module that has the weight, and the weight: [out, in] or [out, in, kh, kw].

    The path of a projection of a prompt ends in `.projection` (see `CachedProjection`), its name does not.
    """

    owner: str
    name: str
    path: str
    weight: Tensor


def layers_of(model: LoadedModel) -> Mapping[tuple[str, str], Layer]:
    """All layers of a model, by their owner and each of their names, with underscores for dots: in a UNet diffusers'
    and the original release's."""
    found: dict[tuple[str, str], Layer] = {}
    original = _originally(model.unet)
    for layer in _layers(UNET, model.unet):
        found[UNET, _underscored(layer.name)] = layer
        if layer.name in _OUTSIDE:
            found[UNET, _underscored(_OUTSIDE[layer.name])] = layer
        elif block := _IN_A_BLOCK.match(layer.name):
            rest = layer.name[block.end() + 1 :]
            rest = _OF_RESNETS.get(rest, rest) if ".resnets." in block[0] else rest
            rest = "" if ".downsamplers." in block[0] else rest  # the original's is a convolution without a name
            found[UNET, _underscored(f"{original[block[0]]}.{rest}".rstrip("."))] = layer
    for part, encoder in zip(model.family.encoders, model.encoders, strict=True):
        for layer in _layers(part.folder, encoder.module):
            bare = layer.name.removeprefix(_INSIDE)
            found[part.folder, _underscored(bare)] = found[part.folder, _underscored(_INSIDE + bare)] = layer
    return found


def _layers(owner: str, module: nn.Module) -> Iterator[Layer]:
    cached = {path for path, inside in module.named_modules() if isinstance(inside, CachedProjection)}
    for path, inside in module.named_modules():
        if isinstance(inside, nn.Linear | nn.Conv2d):
            above = path.rpartition(".")[0]
            yield Layer(owner, above if above in cached else path, path, inside.weight)


def _originally(unet: nn.Module) -> Mapping[str, str]:
    """What the original release calls the members of a UNet's blocks: it has one list of them on the way down and one
    on the way up."""
    names = {f"mid_block.{kind}": f"middle_block.{place}" for place, kind in enumerate(_IN_THE_MIDDLE)}
    number = 1
    for place, block in enumerate(_blocks(unet, "down_blocks")):
        for layer in range(_count(block, "resnets")):
            names[f"down_blocks.{place}.resnets.{layer}"] = f"input_blocks.{number}.0"
            names[f"down_blocks.{place}.attentions.{layer}"] = f"input_blocks.{number}.1"
            number += 1
        if _count(block, "downsamplers"):
            names[f"down_blocks.{place}.downsamplers.0"] = f"input_blocks.{number}.0.op"
            number += 1
    number = 0
    for place, block in enumerate(_blocks(unet, "up_blocks")):
        for layer in range(_count(block, "resnets")):
            names[f"up_blocks.{place}.resnets.{layer}"] = f"output_blocks.{number}.0"
            names[f"up_blocks.{place}.attentions.{layer}"] = f"output_blocks.{number}.1"
            number += 1
        after = 2 if _count(block, "attentions") else 1
        names[f"up_blocks.{place}.upsamplers.0"] = f"output_blocks.{number - 1}.{after}"
    return names


_IN_THE_MIDDLE = ("resnets.0", "attentions.0", "resnets.1")


def _blocks(unet: nn.Module, called: str) -> list[nn.Module]:
    return list(unet.get_submodule(called).children())


def _count(block: nn.Module, kind: str) -> int:
    members = getattr(block, kind, None)
    return len(members) if isinstance(members, nn.ModuleList) else 0


def _underscored(path: str) -> str:
    return path.replace(".", "_")
