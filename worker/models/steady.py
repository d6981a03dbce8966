"""Layers of a UNet on CUDA whose rows get the same bits in whatever place of a batch they are.

cuDNN and cuBLAS have kernels that sum a row's products in another order by where in the batch it lies. They do so every
time, which makes them deterministic, but not a job's bytes independent of its company. On an H200 the second
downsampling convolution of Stable Diffusion has such a kernel, of 64 rows.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

_SEED = 0
_DRAWS = 8
"""Rounding hides most of what another order of sums does, and a small layer has few numbers to show it."""


class _Steady(nn.Module):
    """A layer that computes row by row, for all shapes of which its kernel gave equal rows unequal outputs."""

    moving: dict[torch.Size, bool]
    """By the shape of a batch, whether its rows depend on their places."""

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output for rows [N, ...]."""
        if len(input) == 1 or not self._moves(input):
            return self._at_once(input)
        return torch.cat([self._at_once(row) for row in input.split(1)])

    def _moves(self, input: Tensor) -> bool:
        """Found out once a shape, by rows of random numbers: what is chosen must not depend on what the first jobs
        happen to be."""
        if input.shape not in self.moving:
            draw = torch.Generator(input.device).manual_seed(_SEED)
            self.moving[input.shape] = any(self._differ(input, draw) for _ in range(_DRAWS))
        return self.moving[input.shape]

    def _differ(self, input: Tensor, draw: torch.Generator) -> bool:
        """Whether a row like those of `input`, in every place, has unequal outputs."""
        row = torch.randn(input[:1].shape, generator=draw, device=input.device, dtype=input.dtype)
        out = self._at_once(torch.empty_like(input).copy_(row.expand_as(input)))
        return not bool((out == out[:1]).all())

    def _at_once(self, input: Tensor) -> Tensor:
        out: Tensor = super().forward(input)
        return out


@cache
def _steady(kind: Any) -> Any:
    """The steady one of a kind of layers."""
    return type(f"Steady{kind.__name__}", (_Steady, kind), {})


def keep_rows_steady(module: nn.Module) -> None:
    """Let no row depend on its place, if deterministic kernels were chosen (see `worker.diffusion.determinism`)."""
    if not torch.are_deterministic_algorithms_enabled():
        return
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            kind: Any = type(layer)
            layer.__class__ = _steady(kind)  # with its weights and hooks, and under its own name
            cast(_Steady, layer).moving = {}
