"""Adapters made by hand, and what they make of a model's own weights: the truth that rows are held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from worker.diffusion.adapters import Adapter, Factors, Stack
from worker.diffusion.adapting import Adapting
from worker.diffusion.cross_attention import CrossAttentionCache
from worker.diffusion.prompts import PromptEncoder
from worker.models.model import LoadedModel


def attention(path: str) -> bool:
    return ".attn" in path


def transformers(path: str) -> bool:
    return ".attentions." in path


def everything(path: str) -> bool:
    return True


def nothing(path: str) -> bool:
    return False


def adapter(
    model: LoadedModel,
    seed: int = 0,
    *,
    unet: Callable[[str], bool] = everything,
    text: Callable[[str], bool] = nothing,
    rank: int = 4,
    size: float = 0.3,
    magnitude: bool = False,
) -> Adapter:
    """One that changes the layers of a model whose paths are picked, each by about `size` of what it is.

    With a `magnitude` it is a DoRA.
    """
    numbers = torch.Generator().manual_seed(seed)

    def factors(layer: nn.Linear | nn.Conv2d) -> Factors:
        weight = layer.weight.float().cpu()
        down = torch.randn((rank, *weight.shape[1:]), generator=numbers)
        up = size * float(weight.std()) / rank**0.5 * torch.randn((len(weight), rank), generator=numbers)
        norm = weight.flatten(1).norm(dim=1) * (1 + 0.3 * torch.rand(len(weight), generator=numbers))
        return Factors(down, up, norm if magnitude else None)

    return Adapter(
        f"adapter {seed}",
        f"{seed:064}",
        {path: factors(layer) for path, layer in layers(model.unet).items() if unet(path)},
        tuple(
            {path: factors(layer) for path, layer in layers(encoder.module).items() if text(path)}
            for encoder in model.encoders
        ),
    )


def layers(module: nn.Module) -> Mapping[str, Any]:
    return {path: one for path, one in module.named_modules() if isinstance(one, (nn.Linear, nn.Conv2d))}


def fused(model: LoadedModel, stack: Stack) -> LoadedModel:
    """A copy of the model that has a stack in its weights, and computes every prompt at every step."""
    unet = deepcopy(model.unet)
    encoders = tuple(replace(encoder, module=deepcopy(encoder.module)) for encoder in model.encoders)
    for whole, part in (
        (unet, model.unet),
        *zip((e.module for e in encoders), (e.module for e in model.encoders), strict=True),
    ):
        own = layers(part)
        for path, layer in layers(whole).items():
            for use in stack:
                number = next((n for n, e in enumerate(model.encoders) if e.module is part), None)
                given = use.adapter.unet if number is None else use.adapter.encoders[number]
                strength = use.unet if number is None else use.text
                if path in given:
                    layer.weight.add_(strength * delta(own[path].weight, given[path]))
    none = CrossAttentionCache(())
    prompts = PromptEncoder(encoders, zeros_for_nothing=not model.prompts.encode_negative("").embedding.any())
    return replace(
        model,
        unet=unet,
        encoders=encoders,
        prompts=prompts,
        cross_attention=none,
        adapting=Adapting(unet, none),
        recorded=None,
    )


def delta(weight: Tensor, factors: Factors) -> Tensor:
    """What factors add to a layer's weight at full strength, by the papers."""
    product: Tensor = (factors.up @ factors.down.flatten(1)).view_as(weight)
    if factors.magnitude is None:
        return product
    whole = weight + product
    norm = whole.flatten(1).norm(dim=1)
    scaled: Tensor = (factors.magnitude / norm).view(-1, *[1] * (weight.dim() - 1)) * whole
    return scaled - weight
