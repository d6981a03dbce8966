"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598), for rows that each have their own scale.

Any scale has a meaning: 0 is the unconditional picture, below 1 is in between, below 0 leads away from the prompt.
diffusers' pipelines take every scale up to 1 for 1.
"""

from __future__ import annotations

from torch import Tensor


def needs_unconditional(scale: float) -> bool:
    """Whether a job of this guidance scale fills a second, unconditional row: at 1 that cancels out."""
    return scale != 1.0


def guide(unconditional: Tensor, conditional: Tensor, scale: Tensor) -> Tensor:
    """u + scale·(c − u) for u and c of shape [N, C, h, w] and a scale for each row, [N]. Computed in float32."""
    unconditional, conditional = unconditional.float(), conditional.float()
    return unconditional + scale.view(-1, 1, 1, 1) * (conditional - unconditional)
