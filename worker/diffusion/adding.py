"""What adapters add to a layer's output, for those rows of a batch that have some.

Functions of tensors alone, which TorchScript can compile. A layer's own output is changed in place, and rows that have
no adapter keep their bits, for nothing is added to them, not even zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Batched:
    """What is added to one layer's output, for M rows whose adapters share a rank.

    To a linear layer's x·`down`·`up`, of [M, in, rank] and [M, rank, out]; to a convolution's `up`·(`down` * x), of
    [M·rank, in, kh, kw], or [M, rank, in] if it looks at one place at a time, and [M, out, rank]. With a `gain`
    [M, out] also so much of the output without its bias.
    """

    down: Tensor
    up: Tensor
    gain: Tensor | None = None


def add(layer: nn.Module, x: Tensor, y: Tensor, which: Tensor, batched: Batched) -> Tensor:
    """The output `y` of a layer that was given `x`, both [N, ...], with what is added to the rows `which` [M]."""
    find = _compiled if torch.jit.is_tracing() else _itself  # type: ignore[attr-defined,no-untyped-call]
    if batched.gain is not None:
        y = find(_add_gain)(y, which, *_shaped(layer, batched.gain, y.dim()))
    if not isinstance(layer, nn.Conv2d):
        added: Tensor = find(_add_to_linear)(x, y, which, batched.down, batched.up)
    else:
        stride, padding = layer.stride[0], int(layer.padding[0])
        added = find(_add_to_convolution)(x, y, which, batched.down, batched.up, stride, padding)
    return added


def _shaped(layer: nn.Module, gain: Tensor, dimensions: int) -> tuple[Tensor, Tensor | None]:
    """A layer's gain, and its bias if it has one, so that they go with its output."""
    bias: Any = layer.bias
    if isinstance(layer, nn.Conv2d):
        return gain[:, :, None, None], None if bias is None else bias[:, None, None]
    return gain if dimensions == 2 else gain[:, None], bias


def _itself(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return function


@cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """For recordings, which would know but one way of each `if`."""
    compiled: Callable[..., Tensor] = torch.jit.script(function)
    return compiled


def _add_to_linear(x: Tensor, y: Tensor, which: Tensor, down: Tensor, up: Tensor) -> Tensor:
    if x.dim() == 2:
        _add_to_tokens(x.unsqueeze(1), y.unsqueeze(1), which, down, up)
    else:
        _add_to_tokens(x, y, which, down, up)
    return y


def _add_to_tokens(x: Tensor, y: Tensor, which: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Of [N, tokens, in] and [N, tokens, out]."""
    if which.size(0) == x.size(0):
        return y.baddbmm_(torch.bmm(x, down), up)
    return y.index_add_(0, which, torch.bmm(torch.bmm(x.index_select(0, which), down), up))


def _add_to_convolution(
    x: Tensor, y: Tensor, which: Tensor, down: Tensor, up: Tensor, stride: int, padding: int
) -> Tensor:
    count, rank = which.size(0), up.size(2)
    are_all = count == x.size(0)
    own = x if are_all else x.index_select(0, which)
    if down.dim() == 3:
        inner = torch.bmm(down, own.flatten(2))
    else:  # every row is a group of channels of one picture
        rows = own.reshape(1, count * own.size(1), own.size(2), own.size(3))
        inner = F.conv2d(rows, down, None, [stride, stride], [padding, padding], [1, 1], count)
        inner = inner.view(count, rank, y.size(2) * y.size(3))
    if are_all and y.is_contiguous():
        y.view(count, y.size(1), -1).baddbmm_(up, inner)
        return y
    return y.index_add_(0, which, torch.bmm(up, inner).view(count, y.size(1), y.size(2), y.size(3)))


def _add_gain(y: Tensor, which: Tensor, gain: Tensor, bias: Optional[Tensor]) -> Tensor:  # noqa: UP045 - as TorchScript reads it
    own = y.index_select(0, which)
    product = own if bias is None else own - bias
    return y.index_copy_(0, which, torch.addcmul(own, product, gain))
