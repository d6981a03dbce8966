"""Kernels in Triton: group norm of pictures in channels_last, and the gate of a gated linear unit.

Sums are in float32, no sum crosses rows, and none depends on how many there are: a row's bits are its own. Triton
launches on the current device, which need not be a tensor's.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_PIXELS, _CHANNELS = 128, 64
"""Of a tile. 64 channels of two bytes each are a whole line of the cache."""
_WARPS = 8
_TILES_AT_ONCE = 16
_TOKENS, _WIDTH = 16, 256
"""Of a tile of gated numbers."""


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`torch.nn.functional.group_norm` of x [N, C, H, W], which is in channels_last, as the result is.

    Three kernels: what each tile of pixels says of its channels; from that a factor and an offset for every channel of
    every row; and both applied. Tiles are merged by Chan, Golub and LeVeque's formula ("Updating Formulae and a
    Pairwise Algorithm for Computing Sample Variances", 1979), which loses nothing where a mean is large. Not to be
    differentiated.
    """
    count, channels, height, width = x.shape
    pixels = height * width
    tiles, lanes = triton.cdiv(pixels, _PIXELS), triton.cdiv(channels, _CHANNELS)
    means = torch.empty((2, count, tiles, channels), device=x.device, dtype=torch.float32)
    affine = torch.empty((2, count, channels), device=x.device, dtype=torch.float32)
    out = torch.empty_like(x, memory_format=torch.channels_last)
    size: dict[str, Any] = {"PIXELS": _PIXELS, "CHANNELS": _CHANNELS, "num_warps": _WARPS}
    grid, each = (count * tiles, lanes), channels // groups
    with torch.cuda.device_of(x):
        _tell[grid](x, means[0], means[1], pixels, channels, tiles, **size)
        _merge[(count, groups)](
            *(means[0], means[1], weight, bias, affine[0], affine[1], pixels, channels, tiles, each, eps),
            PIXELS=_PIXELS,
            TILES=_TILES_AT_ONCE,
            EACH=triton.next_power_of_2(each),
            num_warps=4,
        )
        _apply[grid](x, affine[0], affine[1], out, pixels, channels, tiles, **size)
    return out


def gated(x: Tensor) -> Tensor:
    """The first half of the last dimension of x [..., 2·width], times GELU of the second: [..., width].

    Not to be differentiated.
    """
    x = x.contiguous()
    width = x.shape[-1] // 2
    out = x.new_empty((*x.shape[:-1], width))
    tokens = out.numel() // width
    grid = (triton.cdiv(tokens, _TOKENS), triton.cdiv(width, _WIDTH))
    with torch.cuda.device_of(x):
        _gate[grid](x, out, tokens, width, TOKENS=_TOKENS, WIDTH=_WIDTH, num_warps=_WARPS)
    return out


@triton.jit
def _tell(x, means, squares, pixels, channels, tiles, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """Of each channel of a tile its mean, and the sum of its squared differences from that."""
    row, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    pixel = tile * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    at = (row.to(tl.int64) * pixels + pixel)[:, None] * channels + channel[None, :]
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    number = tl.minimum(pixels - tile * PIXELS, PIXELS).to(tl.float32)
    mean = tl.sum(values, axis=0) / number
    difference = tl.where(inside, values - mean[None, :], 0.0)
    to = (row.to(tl.int64) * tiles + tile) * channels + channel
    tl.store(means + to, mean, mask=channel < channels)
    tl.store(squares + to, tl.sum(difference * difference, axis=0), mask=channel < channels)


@triton.jit
def _merge(
    means,
    squares,
    weight,
    bias,
    factors,
    offsets,
    pixels,
    channels,
    tiles,
    each,
    eps,
    PIXELS: tl.constexpr,
    TILES: tl.constexpr,
    EACH: tl.constexpr,
):
    """A group's mean and variance from its tiles', as a factor and an offset for each of its channels."""
    row, lane = tl.program_id(0).to(tl.int64), tl.arange(0, EACH)
    channel = tl.program_id(1) * each + lane
    number = 1.0 * pixels * each
    total = tl.zeros((TILES, EACH), tl.float32)
    for first in range(0, tiles, TILES):
        at, inside, size = _tiles_of(row, first, channel, lane < each, pixels, channels, tiles, PIXELS, TILES)
        total += size * tl.load(means + at, mask=inside, other=0.0)
    mean = tl.sum(total) / number
    squared = tl.zeros((TILES, EACH), tl.float32)
    for first in range(0, tiles, TILES):
        at, inside, size = _tiles_of(row, first, channel, lane < each, pixels, channels, tiles, PIXELS, TILES)
        apart = tl.load(means + at, mask=inside, other=0.0) - mean
        own = tl.load(squares + at, mask=inside, other=0.0)
        squared += tl.where(inside, own + size * apart * apart, 0.0)
    deviation = tl.sqrt_rn(tl.sum(squared) / number + eps)
    factor = tl.load(weight + channel, mask=lane < each, other=0.0).to(tl.float32) / deviation
    offset = tl.load(bias + channel, mask=lane < each, other=0.0).to(tl.float32) - mean * factor
    tl.store(factors + row * channels + channel, factor, mask=lane < each)
    tl.store(offsets + row * channels + channel, offset, mask=lane < each)


@triton.jit
def _tiles_of(row, first, channel, is_own, pixels, channels, tiles, PIXELS: tl.constexpr, TILES: tl.constexpr):
    """Of some tiles of a row, where what they say of channels is, whether that is asked for, and how many pixels each
    has."""
    tile = first + tl.arange(0, TILES)
    inside = (tile < tiles)[:, None] & is_own[None, :]
    size = tl.minimum(pixels - tile * PIXELS, PIXELS).to(tl.float32)[:, None]
    return (row * tiles + tile)[:, None] * channels + channel[None, :], inside, size


@triton.jit
def _apply(x, factors, offsets, out, pixels, channels, tiles, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """A tile's values times their channels' factors, plus their offsets."""
    row, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    pixel = tile * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    at = (row * pixels + pixel)[:, None] * channels + channel[None, :]
    factor = tl.load(factors + row * channels + channel, mask=channel < channels, other=0.0)
    offset = tl.load(offsets + row * channels + channel, mask=channel < channels, other=0.0)
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) * factor[None, :] + offset[None, :]
    tl.store(out + at, values.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gate(x, out, tokens, width, TOKENS: tl.constexpr, WIDTH: tl.constexpr):
    """A tile of numbers times the GELU of their gates."""
    token = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    lane = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = (token < tokens)[:, None] & (lane < width)[None, :]
    at = token[:, None] * (2 * width) + lane[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(x + at + width, mask=inside, other=0.0).to(tl.float32)
    gate = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(out + token[:, None] * width + lane[None, :], (value * gate).to(out.dtype.element_ty), mask=inside)
