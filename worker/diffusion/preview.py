"""Live previews: a linear map from latents to colours, a thousandth of a decode and good enough to watch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from farm.errors import ModelError
from worker.diffusion.latents import decode, to_pixels

SAMPLES, SIDE = 8, 8


@dataclass(frozen=True)
class PreviewMap:
    """RGB = latentᵀ·matrix + bias, for each latent pixel: `matrix` is [4, 3] and `bias` [3], colours 0 to 1."""

    matrix: Tensor
    bias: Tensor

    def render(self, latents: Tensor) -> Tensor:
        """Small pictures of latents: [N, 4, h, w] → uint8 [N, h, w, 3]."""
        weights = self.matrix.to(latents)
        return to_pixels(torch.einsum("nchw,cr->nrhw", latents, weights) + self.bias.to(latents).view(1, 3, 1, 1))

    def to_json(self) -> str:
        return json.dumps({"matrix": self.matrix.tolist(), "bias": self.bias.tolist()})


def read_preview_map(path: Path) -> PreviewMap:
    """The map that `PreviewMap.to_json` wrote to `path`. Raises `ModelError` if it is malformed."""
    try:
        content = json.loads(path.read_text())
        matrix, bias = torch.tensor(content["matrix"]).float(), torch.tensor(content["bias"]).float()
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ModelError(f"{path} is not a preview map: {error}") from error
    if (
        matrix.ndim != 2
        or matrix.shape[1] != 3
        or bias.shape != (3,)
        or not (matrix.isfinite().all() and bias.isfinite().all())
    ):
        raise ModelError(f"{path} is not a preview map", hint="it has a 'matrix' of 4×3 numbers and a 'bias' of 3")
    return PreviewMap(matrix, bias)


@torch.no_grad()
def fit_preview_map(vae: AutoencoderKL) -> PreviewMap:
    """The least-squares map for an autoencoder, from decoding smooth random latents. Deterministic."""
    generator = torch.Generator("cpu").manual_seed(0)
    channels = int(vae.config["latent_channels"])
    coarse = torch.randn((SAMPLES, channels, SIDE // 4, SIDE // 4), generator=generator)
    latents = F.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    images = decode(vae, latents).clamp(0, 1).cpu()
    colors = F.adaptive_avg_pool2d(images, (SIDE, SIDE)).permute(0, 2, 3, 1).reshape(-1, 3)
    points = latents.permute(0, 2, 3, 1).reshape(-1, channels)
    with_bias = torch.cat([points, torch.ones(len(points), 1)], dim=1)
    # LAPACK's last bits change from call to call: solve in double precision, and keep what does not.
    solution = torch.linalg.lstsq(with_bias.double(), colors.double()).solution.round(decimals=6).float()
    return PreviewMap(solution[:channels], solution[channels])
