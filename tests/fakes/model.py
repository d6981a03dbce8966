"""A model without weights: what is asked of one on the way of a job around the engine."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from farm.jobs.defaults import Defaults
from worker.diffusion.adapters import Stack
from worker.families.family import Family
from worker.families.sd import SD


@dataclass(frozen=True, eq=False)
class FakeModel:
    """Of Stable Diffusion's form, for pictures of 64 pixels a side."""

    name: str
    source: str = "memory"
    revision: str | None = None
    sha256: str | None = None
    vae_file: str | None = None
    vae_sha256: str | None = None
    dtype: torch.dtype = torch.float32
    vae_factor: int = 8
    default_width: int = 64
    default_height: int = 64
    latent_shape: tuple[int, int, int] = (4, 8, 8)
    family: Family = SD
    defaults: Defaults = field(default_factory=Defaults)
    size: int = 1
    ready: list[Stack] = field(default_factory=list)
    """The adapters that it was told of."""

    def get_ready(self, stack: Stack) -> None:
        self.ready.append(stack)
