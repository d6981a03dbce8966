"""Adapters for the comparison: of random numbers, as much work as trained ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from worker.bench.workloads import Job
from worker.diffusion.adapters import Adapter, Factors, Use
from worker.models.model import LoadedModel

_RANK = 16
_CACHED = ".projection"


def adapted(model: LoadedModel, jobs: Sequence[Job], *, size: float = 0.05) -> list[Job]:
    """The jobs, each under an adapter of its own, of rank 16, that adds about `size` of a layer's own weight to it."""
    return [replace(job, id=f"{job.id} adapted", stack=(Use(_adapter(model, n, size)),)) for n, job in enumerate(jobs)]


def can_switch() -> bool:
    """Whether diffusers can have adapters here: it needs peft for that."""
    return find_spec("peft") is not None


def for_diffusers(adapter: Adapter) -> dict[str, Tensor]:
    """An adapter of a UNet as diffusers' pipelines load it."""
    named: dict[str, Tensor] = {}
    for path, factors in adapter.unet.items():
        layer = f"unet.{path.removesuffix(_CACHED)}"
        up = factors.up if factors.down.dim() == 2 else factors.up[:, :, None, None]
        named |= {f"{layer}.lora_A.weight": factors.down, f"{layer}.lora_B.weight": up}
    return named


def _adapter(model: LoadedModel, number: int, size: float) -> Adapter:
    """Of all layers of the UNet's transformers, which are those that trainers choose."""
    numbers = torch.Generator().manual_seed(number)

    def factors(weight: Tensor) -> Factors:
        down = torch.randn((_RANK, *weight.shape[1:]), generator=numbers)
        up = torch.randn((len(weight), _RANK), generator=numbers) * float(weight.std()) * size / _RANK**0.5
        return Factors(down, up)

    layers = {
        path: factors(layer.weight)
        for path, layer in model.unet.named_modules()
        if ".attentions." in path and isinstance(layer, (nn.Linear, nn.Conv2d))
    }
    return Adapter(f"adapter {number}", f"{number:064x}", layers, ())
