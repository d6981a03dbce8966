"""The first stage: a KL autoencoder with factor 8 and 4 channels, its latents normalised, and the preview map."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from worker.diffusion.preview import PreviewMap, fit
from worker.emoji.corpus import SIZE
from worker.emoji.dataset import Pictures, as_tensor, in_chunks
from worker.emoji.loop import LossOfStep, Stage
from worker.emoji.settings import Settings

SCALING_FACTOR = 0.18215
"""Stable Diffusion 1.x's own factor: latents times this have variance one. Code that hard-codes it stays right."""

_CROP = SIZE // 2
_CROPS_UNTIL = 0.6


def new_autoencoder(settings: Settings) -> AutoencoderKL:
    """An untrained autoencoder: (n, 3, 8h, 8w) in -1..1 to latents (n, 4, h, w) and back."""
    autoencoder: AutoencoderKL = AutoencoderKL(
        block_out_channels=settings.autoencoder_channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=SCALING_FACTOR,
        # global attention learnt on crops would not carry over to whole pictures
        mid_block_add_attention=False,
    )
    return autoencoder


def autoencoder_losses(
    stage: Stage[AutoencoderKL], pictures: Pictures, settings: Settings, device: torch.device
) -> LossOfStep:
    """The losses of the autoencoder: distortion in value and in gradient, and a light pull towards a unit Gaussian.

    Crops come first, many a batch, then whole pictures, since group normalisation sees the statistics of all it is
    given and they differ between a crop and a picture. (Kingma and Welling 2014; Rombach et al. 2022, section 3.1.)
    """

    def losses(progress: float) -> dict[str, Tensor]:
        target = _draw_batch(stage, pictures, whole=progress > _CROPS_UNTIL).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.autocast):
            posterior = stage.module.encode(target).latent_dist
            drawn = stage.module.decode(posterior.sample()).sample
        result, target = drawn.float(), target.float()
        distortion = F.l1_loss(result, target) + 4 * F.mse_loss(result, target) + 0.5 * _gradient_loss(result, target)
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        return {"loss": distortion + settings.kl_weight * kl, "mse": F.mse_loss(result, target), "kl": kl}

    return losses


def _draw_batch(stage: Stage[AutoencoderKL], pictures: Pictures, whole: bool) -> Tensor:
    side = SIZE if whole else _CROP
    count = max(1, stage.plan.batch * _CROP**2 // side**2)
    rows = torch.randint(len(pictures), (count,), generator=stage.generator).tolist()
    corners = torch.randint(SIZE - side + 1, (count, 2), generator=stage.generator).tolist()
    places = zip(rows, corners, strict=True)
    return as_tensor(np.stack([pictures[row, top : top + side, left : left + side] for row, (top, left) in places]))


def _gradient_loss(result: Tensor, target: Tensor) -> Tensor:
    """The mean absolute error of both finite differences: it keeps outlines sharp."""
    return sum((F.l1_loss(result.diff(dim=axis), target.diff(dim=axis)) for axis in (-1, -2)), torch.zeros(()))


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, pictures: Pictures, device: torch.device, chunk: int = 32) -> Tensor:
    """The means of the pictures' latents, unscaled, shape (count, 4, 16, 16)."""
    means = [autoencoder.encode(images).latent_dist.mean.float().cpu() for images in in_chunks(pictures, chunk, device)]
    return torch.cat(means)


@torch.no_grad()
def reconstruct(autoencoder: AutoencoderKL, pictures: Pictures, device: torch.device, chunk: int = 16) -> Pictures:
    """The pictures, encoded and decoded again."""
    decoded = [
        autoencoder.decode(autoencoder.encode(images).latent_dist.mean).sample.add(1).mul(127.5).round().clamp(0, 255)
        for images in in_chunks(pictures, chunk, device)
    ]
    return torch.cat(decoded).byte().permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def normalise(autoencoder: AutoencoderKL, latents: Tensor) -> Tensor:
    """Fold a per-channel shift and scale into the 1×1 convolutions around the latents; return the new latents.

    Afterwards each channel has mean zero and, times ``SCALING_FACTOR``, variance one: the noise schedule and guidance
    assume both. Pictures are reconstructed exactly as before.
    """
    mean = latents.mean((0, 2, 3))
    scale = 1 / (SCALING_FACTOR * latents.std((0, 2, 3)))
    _fold(autoencoder, mean.to(autoencoder.device), scale.to(autoencoder.device))
    return (latents - mean[:, None, None]) * scale[:, None, None]


def _fold(autoencoder: AutoencoderKL, mean: Tensor, scale: Tensor) -> None:
    """Make the encoder put out (latents − mean)·scale, and the decoder undo it."""
    before, after = autoencoder.quant_conv, autoencoder.post_quant_conv
    assert before is not None and after is not None
    assert before.bias is not None and after.bias is not None
    channels = len(mean)
    before.weight[:channels] *= scale[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - mean) * scale
    before.bias[channels:] += 2 * scale.log()  # the posterior's log variance scales along
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight /= scale[None, :, None, None]


def preview_map(latents: Tensor, pictures: Pictures) -> PreviewMap:
    """The map from scaled latents, which are what the denoiser sees, to pictures."""
    images = torch.cat(list(in_chunks(pictures, 64)))
    return fit(latents * SCALING_FACTOR, images.add(1).div(2))
