"""What the UNet is conditioned on: between a job's first step and the UNet it travels as one value, so that nobody on
the way need know what is in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What the UNet reads besides latents and timesteps, of one row or of N that are stacked. Compared by identity.

    The first dimension of every tensor in it are rows. A family of models whose UNet reads more has a class of its own,
    with more tensors and arguments.
    """

    text: Tensor
    """[N, tokens, width], of the prompt: its embedding, or what a `CrossAttentionCache` made of it."""

    @staticmethod
    def stacked(rows: Sequence[Conditioning]) -> Conditioning:
        """That of a forward, from those of its rows, whose shape must be the same."""
        return type(rows[0])(*map(torch.cat, zip(*(row.tensors for row in rows), strict=True)))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that is in it, in the order in which it is made of them."""
        return (self.text,)

    @property
    def shape(self) -> tuple[torch.Size, ...]:
        """Of the tensors of one row."""
        return tuple(tensor.shape[1:] for tensor in self.tensors)

    @property
    def arguments(self) -> dict[str, Any]:
        """By what names diffusers' UNet takes it."""
        return {"encoder_hidden_states": self.text}

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """What a function makes of every tensor, such as one that picks rows."""
        return type(self)(*map(change, self.tensors))
