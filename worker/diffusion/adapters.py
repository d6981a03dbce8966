"""Adapters: what is added to the weights of some layers, for some rows of a batch.

LoRA (Hu et al. 2021, arXiv:2106.09685) and its kin. A layer whose weight is W [out, in] computes with W + up·down
instead, where `up` and `down` share a rank that is small beside both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from weakref import ref

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Factors:
    """What is added to one layer's weight, at full strength: float32, on the CPU.

    `down` is [rank, in], or [rank, in, kh, kw] for a convolution, whose stride and padding are the layer's own; `up` is
    [out, rank], with alpha/rank in it. With a `magnitude` [out] (DoRA, Liu et al. 2024, arXiv:2402.09353) the sum is
    scaled, for each output, to that norm.
    """

    down: Tensor
    up: Tensor
    magnitude: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Adapter:
    """The factors in a file, by the paths of the modules of a UNet and of its text encoders. Compared by identity.

    `unfit` says which of the file's weights are for no layer of the model, if some are.
    """

    name: str
    sha256: str
    unet: Mapping[str, Factors]
    encoders: tuple[Mapping[str, Factors], ...]
    unfit: str | None = None


@dataclass(frozen=True)
class Use:
    """An adapter, and how strongly it acts on the UNet and on the text encoders; negative: away from it."""

    adapter: Adapter
    unet: float = 1.0
    text: float = 1.0


Stack = tuple[Use, ...]
"""The adapters of one job, which add up."""

Acting = tuple[tuple[ref[Adapter], float], ...]
"""The adapters of a stack that act on one part of a model, and how strongly: by this it is told what is computed with
them, and it keeps none of them in memory."""


def acting_on_unet(stack: Stack) -> Acting:
    return tuple((ref(use.adapter), use.unet) for use in stack if use.unet and use.adapter.unet)


def acting_on_text(stack: Stack) -> Acting:
    return tuple((ref(use.adapter), use.text) for use in stack if use.text and any(use.adapter.encoders))
