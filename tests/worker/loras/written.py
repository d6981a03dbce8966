"""LoRA files of one set of factors, as different programs write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from farm.lora_keys import UNET
from tests.worker.models.original_layout import UNET as ORIGINALLY
from tests.worker.models.original_layout import original_unet
from worker.diffusion.adapters import Factors
from worker.loras.layers import Layer, layers_of
from worker.models.model import LoadedModel

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Drawn:
    """What is added to a layer: `up`·`down`, times alpha by rank."""

    layer: Layer
    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor

    @property
    def inside(self) -> str:
        """The layer's name as all files have it: in text encoders of whatever release below `text_model`."""
        name = self.layer.name
        bare = name.removeprefix("text_model.")
        return name if self.layer.owner == UNET or bare == "text_projection" else f"text_model.{bare}"


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.2


def draw(model: LoadedModel, *, rank: int = 3, alpha: float = 2.0) -> list[Drawn]:
    """Factors for every layer of a model."""
    layers = {(layer.owner, layer.name): layer for layer in layers_of(model).values()}
    return [
        Drawn(
            layer,
            numbers(rank, *layer.weight.shape[1:], seed=seed),
            numbers(layer.weight.shape[0], rank, seed=10_000 + seed),
            alpha,
            numbers(layer.weight.shape[0], seed=20_000 + seed).abs() + 0.5,
        )
        for seed, layer in enumerate(layers.values())
    ]


def kohya(drawn: list[Drawn], *, two: bool = False, called: Callable[[str], str] = lambda name: name) -> Named:
    """As kohya's scripts and LyCORIS do; `called` renames the layers of the UNet."""
    begins = {UNET: "lora_unet_", "text_encoder": "lora_te1_" if two else "lora_te_", "text_encoder_2": "lora_te2_"}
    found: Named = {}
    for one in drawn:
        inside = called(one.inside) if one.layer.owner == UNET else one.inside
        name = begins[one.layer.owner] + inside.replace(".", "_")
        found[f"{name}.lora_down.weight"] = one.down
        found[f"{name}.lora_up.weight"] = one.up.reshape(*one.up.shape, *(1,) * (one.down.ndim - 2))
        found[f"{name}.alpha"] = torch.tensor(one.alpha)
    return found


def original_names(folder: Path, drawn: list[Drawn]) -> Callable[[str], str]:
    """What the original release calls the layers of a UNet."""
    config: Mapping[str, Any] = json.loads((folder / "unet" / "config.json").read_text())
    names = {one.layer.name: one.layer.name for one in drawn if one.layer.owner == UNET}
    renamed = original_unet({f"{name}.weight": torch.tensor(0) for name in names}, config)
    renames = dict(zip(names, renamed, strict=True))
    return lambda name: renames[name].removeprefix(ORIGINALLY).removesuffix(".weight")


def diffusers(drawn: list[Drawn], *, magnitudes: bool = False) -> Named:
    """As diffusers does now; without alpha, which is in the header if anywhere."""
    found: Named = {}
    for one in drawn:
        name = f"{one.layer.owner}.{one.inside}"
        found[f"{name}.lora_A.weight"] = one.down
        found[f"{name}.lora_B.weight"] = one.up.reshape(*one.up.shape, *(1,) * (one.down.ndim - 2))
        if magnitudes:
            wide = one.magnitude.reshape(1, -1, 1, 1) if one.down.ndim == 4 else one.magnitude
            found[f"{name}.lora_magnitude_vector"] = wide
    return found


def formerly(drawn: list[Drawn]) -> Named:
    """As diffusers did before it used PEFT."""
    found: Named = {}
    for one in drawn:
        middle = "lora" if one.layer.owner == UNET else "lora_linear_layer"
        name = f"{one.layer.owner}.{one.inside}.{middle}"
        found[f"{name}.down.weight"] = one.down
        found[f"{name}.up.weight"] = one.up.reshape(*one.up.shape, *(1,) * (one.down.ndim - 2))
    return found


def processors(drawn: list[Drawn]) -> Named:
    """As diffusers did first, of the UNet's attentions."""
    found: Named = {}
    for one in drawn:
        above, _, projection = one.layer.name.removesuffix(".0").rpartition(".")
        if one.layer.owner == UNET and above.endswith((".attn1", ".attn2")):
            found[f"unet.{above}.processor.{projection}_lora.down.weight"] = one.down
            found[f"unet.{above}.processor.{projection}_lora.up.weight"] = one.up
    return found


def peft(drawn: list[Drawn], owner: str) -> Named:
    """As PEFT does, a file for each module."""
    return {
        key.replace(f"{owner}.", "base_model.model.", 1): value
        for key, value in diffusers(drawn).items()
        if key.startswith(f"{owner}.")
    }


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    save_file(
        {key: value.clone().contiguous() for key, value in tensors.items()},
        path,
        metadata=dict(metadata) if metadata else None,
    )
    return path


def applied(weight: Tensor, factors: Factors) -> Tensor:
    """A layer's weight with what an adapter adds to it at full strength."""
    out: Tensor = weight + (factors.up @ factors.down.flatten(1)).reshape(weight.shape)
    if factors.magnitude is not None:
        norms = out.flatten(1).norm(dim=1)
        out = out * (factors.magnitude / norms).reshape(-1, *(1,) * (out.ndim - 1))
    return out
