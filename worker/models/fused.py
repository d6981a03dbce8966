"""Layers that keep channels_last and pass over memory less often than diffusers' and PyTorch's do, on CUDA.

Their names, weights and hooks stay, and so do their numbers but for the last bits. What was found on a GPU:
PyTorch's group norms copy channels_last into another layout and back, a quarter of a full batch's time; diffusers'
transformers do so at their end; its gated linear units write what is gated, and read it again; and convolutions of one
pixel add their bias in a pass of its own.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any, Protocol

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from worker.models.disguises import first_line

_log = logging.getLogger(__name__)


class _Kernels(Protocol):
    """What `worker.models.triton_kernels` has."""

    def group_norm(self, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor: ...

    def gated(self, x: Tensor) -> Tensor: ...


def _is_left_to_pytorch(x: Tensor) -> bool:
    """Whether a tensor is to be differentiated, or a compiler has its own ways with it."""
    return torch.compiler.is_compiling() or (x.requires_grad and torch.is_grad_enabled())


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


class FusedGroupNorm(nn.GroupNorm):
    """A group norm that leaves pictures [N, C, H, W] in channels_last."""

    kernels: _Kernels

    def forward(self, input: Tensor) -> Tensor:
        """The norm of rows [N, C, ...]."""
        if _is_left_to_pytorch(input) or not _is_channels_last(input):
            return super().forward(input)
        return self.kernels.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class FusedGEGLU(GEGLU):
    """A gated linear unit (Shazeer 2020, arXiv:2002.05202) that gates in one pass."""

    kernels: _Kernels

    def forward(self, hidden_states: Tensor, *more: Any, **options: Any) -> Tensor:
        """[..., in] → [..., out]."""
        if _is_left_to_pytorch(hidden_states):
            out: Tensor = super().forward(hidden_states, *more, **options)
            return out
        return self.kernels.gated(self.proj(hidden_states))


class PointwiseConv2d(nn.Conv2d):
    """A convolution of one pixel, which in channels_last is a linear layer."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, in, H, W] → [N, out, H, W]."""
        if _is_left_to_pytorch(input) or not _is_channels_last(input):
            return super().forward(input)
        return F.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class ChannelsLastTransformer(Transformer2DModel):
    """A transformer whose outcome is in channels_last: diffusers' copies it out of that, for others to copy it back."""

    def _get_output_for_continuous_inputs(
        self, hidden_states: Tensor, residual: Tensor, batch_size: int, height: int, width: int, inner_dim: int
    ) -> Tensor:
        """Tokens [N, H·W, C] as pictures [N, C, H, W], added to what was given."""
        if self.use_linear_projection:
            hidden_states = self.proj_out(hidden_states)
        pictures: Tensor = hidden_states.reshape(batch_size, height, width, inner_dim).permute(0, 3, 1, 2)
        if not self.use_linear_projection:
            pictures = self.proj_out(pictures)
        return pictures + residual


def fuse(module: nn.Module) -> None:
    """Let the layers of a module on CUDA, whose weights are in channels_last, be the quicker ones of this file."""
    some = next(module.parameters())
    kernels = _kernels(some.device, some.dtype)
    if kernels:
        FusedGroupNorm.kernels = FusedGEGLU.kernels = kernels
    for layer in module.modules():
        if fused := _fused(layer, has_kernels=kernels is not None):
            layer.__class__ = fused  # with its weights and hooks, and under its own name


def _fused(layer: nn.Module, *, has_kernels: bool) -> Any:
    """The class that a layer becomes; None: it stays what it is."""
    if has_kernels and type(layer) is nn.GroupNorm and layer.affine and layer.bias is not None:
        return FusedGroupNorm
    if has_kernels and type(layer) is GEGLU:
        return FusedGEGLU
    if type(layer) is nn.Conv2d and _is_pointwise(layer):
        return PointwiseConv2d
    if type(layer) is Transformer2DModel and layer.is_input_continuous:
        return ChannelsLastTransformer
    return None


def _is_pointwise(layer: nn.Conv2d) -> bool:
    return {*layer.kernel_size, *layer.stride, layer.groups} == {1} and set(layer.padding) == {0}


@cache
def _kernels(device: torch.device, dtype: torch.dtype) -> _Kernels | None:
    """The kernels, if they can be made here: Triton does not come with every PyTorch, and needs a C compiler."""
    try:
        from worker.models import triton_kernels as kernels

        some = torch.ones((2, 64, 8, 8), device=device, dtype=dtype).to(memory_format=torch.channels_last)
        kernels.group_norm(some, 32, some[0, :, 0, 0], some[0, :, 0, 0], 1e-5)
        kernels.gated(some.flatten())
        torch.cuda.current_stream(device).synchronize()
    except Exception as error:  # of many kinds, and PyTorch has kernels of its own
        _log.warning("group norms and gated units are PyTorch's, which are slower: %s", first_line(error))
        return None
    return kernels
