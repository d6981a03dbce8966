"""Between pictures and latents: the autoencoder's two directions, and the gradient of losses through it.

Images are RGB around 0 to 1, [N, 3, H, W]; latents are [N, 4, H/8, W/8] in the UNet's scale, float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from torch import Tensor

from farm.jobs.spec import Fit
from worker.diffusion.determinism import reproducible_backward
from worker.diffusion.fitting import fit
from worker.diffusion.losses import Moment, WeightedLoss
from worker.diffusion.noise import NoiseStream


def image_tensor(picture: Image.Image, width: int, height: int, how: Fit = "crop") -> Tensor:
    """`picture` as an image [1, 3, height, width] from 0 to 1, made to `fit`.

    A picture that already has the size keeps every pixel.
    """
    pixels = np.asarray(fit(picture, width, height, how), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


@torch.no_grad()
def encode(vae: AutoencoderKL, image: Tensor, noise: NoiseStream) -> Tensor:
    """A sample of the posterior of one image, [1, 3, H, W] → [1, 4, h, w]; the job's first draw, as in diffusers."""
    posterior = _posterior(vae, image)
    mean: Tensor = posterior.mean.float()
    deviation: Tensor = posterior.std.float()
    return _scaled(vae, mean + deviation * noise.draw(tuple(mean.shape)).to(mean.device))


@torch.no_grad()
def encode_mean(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """The means of the posteriors of images, [N, 3, H, W] → [N, 4, h, w]."""
    return _scaled(vae, _posterior(vae, images).mean.float())


def _posterior(vae: AutoencoderKL, images: Tensor) -> Any:
    return vae.encode((2 * images - 1).to(vae.device, vae.dtype)).latent_dist


def _scaled(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    return _scaling_factor(vae) * (latents - _shift_factor(vae))


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Images of latents, in float32 and not clamped, so that gradients reach every pixel."""
    unscaled = latents / _scaling_factor(vae) + _shift_factor(vae)
    decoded: Tensor = vae.decode(unscaled.to(vae.device, vae.dtype)).sample
    return decoded.float() / 2 + 0.5


def has_tiles(vae: AutoencoderKL, latents: Tensor) -> bool:
    """Whether latents [N, 4, h, w] are larger than a tile of the autoencoder."""
    return max(latents.shape[-2:]) > int(vae.tile_latent_min_size)


def decode_in_tiles(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """As `decode`, in overlapping tiles of the autoencoder's own size, blended at their seams: when memory is short."""
    vae.enable_tiling()
    try:
        return decode(vae, latents)
    finally:
        vae.disable_tiling()


def to_pixels(images: Tensor) -> Tensor:
    """Images as bytes, [N, 3, H, W] → uint8 [N, H, W, 3], rounded as diffusers does."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def loss_gradient(
    vae: AutoencoderKL, x0: Tensor, terms: Sequence[Sequence[WeightedLoss]], moments: Sequence[Moment | None] = ()
) -> tuple[Tensor, list[list[float]]]:
    """∂/∂x₀ of each job's Σ scale·loss(decode(x₀)), and the unscaled losses.

    `x0` [N, 4, h, w] has one predicted clean latent for each job, `terms` the losses of each, and `moments` what these
    need besides; rows without any (padding) get a gradient of zero, but not all may be. Returns the gradient
    [N, 4, h, w] and, for each job, its losses in the order of its terms. All jobs share one decode and one backward
    pass. Raises `RenderError('loss')` if a loss fails.
    """
    with torch.enable_grad(), reproducible_backward():
        x0 = x0.detach().requires_grad_()
        images = decode(vae, x0)
        given = zip(images.split(1), x0.split(1), moments or [None] * len(terms), terms, strict=True)
        values = torch.stack(
            [term.evaluate(image, own_x0, moment)[0] for image, own_x0, moment, job in given for term in job]
        )
        scales = values.new_tensor([term.scale for job in terms for term in job])
        # A row's loss depends on that row alone, so the gradient of the sum is every job's own gradient.
        gradient = torch.autograd.grad((scales * values).sum(), x0)[0]
    in_order = iter(values.tolist())
    return gradient, [[next(in_order) for _ in job] for job in terms]


def _scaling_factor(vae: AutoencoderKL) -> float:
    return float(vae.config["scaling_factor"])


def _shift_factor(vae: AutoencoderKL) -> float:
    return float(vae.config.get("shift_factor") or 0.0)
