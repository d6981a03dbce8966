"""The arc from one embedding to another.

A straight mix of two vectors is shorter than both, for it cuts across the sphere on which they lie; along the arc
(spherical interpolation, Shoemake 1985) it is not. Every position of the prompts has an arc of its own: what both have
in common at a position, such as the mark of the start, stays as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

_STRAIGHT = 1e-4
"""The sine of an angle below which there is no telling where the arc goes: vectors that are parallel, or opposite."""


def along_arc(first: Tensor, last: Tensor, share: float) -> Tensor:
    """From the vectors `first` to `last` [..., width], float32, by `share` of the angle: 0 is `first`, 1 is `last`.

    Beyond 0 to 1 the arc goes on. Where two vectors have no angle between them, it is the straight mix.
    """
    lengths = first.norm(dim=-1, keepdim=True) * last.norm(dim=-1, keepdim=True)
    cosine = ((first * last).sum(dim=-1, keepdim=True) / lengths.clamp(min=1e-12)).clamp(-1, 1)
    angle = torch.acos(cosine)
    sine = torch.sin(angle)
    straight = sine < _STRAIGHT
    divisor = torch.where(straight, 1.0, sine)
    of_first = torch.where(straight, 1 - share, torch.sin((1 - share) * angle) / divisor)
    of_last = torch.where(straight, share, torch.sin(share * angle) / divisor)
    return of_first * first + of_last * last
