"""Masks in latents: what of a picture is kept while the rest is redone, and what an inpainting model reads of it.

A model that knows nothing of masks is led by what is kept: after each of its evaluations the latents outside of a mask
are the picture's again, with the noise of the level that was reached, and always the same noise (Lugmayr et al. 2022,
arXiv:2201.09865, without going back). An *inpainting model* was trained with five channels more: the mask, and the
latents of the picture that is grey where it is masked. It is led by those alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import max_pool2d

EXTRA_CHANNELS = 5
"""Of an inpainting model's UNet: one of the mask, four of the masked picture."""
_HIDDEN = 0.5
"""What is masked at least so much is hidden from an inpainting model, and redone; diffusers' pipelines round it too."""
_GREY = 0.5


@dataclass(frozen=True, eq=False)
class Kept:
    """What is kept of one job's picture, on its device: `mask` [1, h, w], 1 where the picture is redone and 0 where it
    is kept; the picture's `latents` and the job's first `noise`, [4, h, w]."""

    mask: Tensor
    latents: Tensor
    noise: Tensor


def mask_tensor(mask: Image.Image) -> Tensor:
    """A mask (mode L) as [1, 1, height, width], from 0 to 1."""
    return torch.from_numpy(np.asarray(mask, dtype=np.float32) / 255)[None, None]


def latent_mask(mask: Tensor, factor: int) -> Tensor:
    """Of a mask [1, 1, H, W], for latents of `factor` pixels a side: [1, 1, h, w].

    A latent is redone as much as the most redone of its pixels, so that nothing that is masked is left out.
    """
    return max_pool2d(mask, factor)


def hidden(mask: Tensor) -> Tensor:
    """A mask without its greys: 1 where an inpainting model must not see the picture, else 0."""
    return (mask >= _HIDDEN).to(mask.dtype)


def masked_picture(image: Tensor, mask: Tensor) -> Tensor:
    """An image [1, 3, H, W] from 0 to 1, grey where a mask [1, 1, H, W] hides it."""
    return torch.where(hidden(mask) == 1, torch.full_like(image, _GREY), image)


def put_back(x: Tensor, mask: Tensor, latents: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Latents [J, 4, h, w] in which all that is kept is the pictures' again, at the level of `alpha` and `sigma`.

    `mask` is [J, 1, h, w], the levels [J, 1, 1, 1], all else as `x`.
    """
    return (1 - mask) * (alpha * latents + sigma * noise) + mask * x
