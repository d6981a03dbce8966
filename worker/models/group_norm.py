"""Group norms that leave pictures in channels_last on CUDA, where PyTorch's own copy them into another layout and back.

In a full batch of Stable Diffusion these copies took a quarter of the time on an H100.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from worker.models.disguises import first_line

_log = logging.getLogger(__name__)

_TRIED = (2, 64, 8, 8)


class ChannelsLastGroupNorm(nn.GroupNorm):
    """One whose kernels were found to work here. What is differentiated or compiled is left to PyTorch."""

    kernels: Callable[..., Tensor]

    def forward(self, input: Tensor) -> Tensor:
        """The norm [N, C, H, W] of a picture, or PyTorch's of anything else."""
        if (
            torch.compiler.is_compiling()
            or not (input.dim() == 4 and input.is_contiguous(memory_format=torch.channels_last))
            or (input.requires_grad and torch.is_grad_enabled())
        ):
            return super().forward(input)
        return type(self).kernels(input, self.num_groups, self.weight, self.bias, self.eps)


def keep_channels_last(module: nn.Module) -> None:
    """Let the group norms of a module on CUDA, all of which have weights, keep the layout of what they are given."""
    device = next(module.parameters()).device
    kernels = _kernels(device) if device.type == "cuda" else None
    if kernels is None:
        return
    ChannelsLastGroupNorm.kernels = staticmethod(kernels)
    for norm in module.modules():
        if type(norm) is nn.GroupNorm and norm.affine:
            norm.__class__ = ChannelsLastGroupNorm  # with its weights and hooks, and under its own name


def _kernels(device: torch.device) -> Callable[..., Tensor] | None:
    """The kernels, if they can be made here: Triton does not come with every PyTorch, and needs a C compiler."""
    try:
        from worker.models.group_norm_kernels import group_norm

        some: Any = torch.zeros(_TRIED, device=device).to(memory_format=torch.channels_last)
        group_norm(some, 32, some[0, :, 0, 0], some[0, :, 0, 0], 1e-5)
        torch.cuda.synchronize(device)
    except Exception as error:  # of many kinds, and PyTorch has kernels of its own
        _log.warning("group norms are PyTorch's own, which is slower: %s", first_line(error))
        return None
    return group_norm
