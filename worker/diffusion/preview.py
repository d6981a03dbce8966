"""Live previews: a linear map from latents to colours, a thousandth of a decode and good enough to watch.

Each colour comes from a latent pixel and its eight neighbours, which say what thin lines and edges are (see
deploy/docs/performance.md).
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from farm.errors import ModelError
from worker.diffusion.latents import decode, encode_mean, to_pixels

_NEIGHBOURS = 3
_PICTURES, _SIDE, _SHAPES = 16, 64, 10


@dataclass(frozen=True)
class PreviewMap:
    """RGB = kernel ∗ latents + bias: `kernel` is [3, 4, 3, 3] and `bias` [3], colours 0 to 1."""

    kernel: Tensor
    bias: Tensor

    @property
    def channels(self) -> int:
        """Of the latents that it is for."""
        return int(self.kernel.shape[1])

    def render(self, latents: Tensor) -> Tensor:
        """Small pictures of latents: [N, 4, h, w] → uint8 [N, h, w, 3]."""
        return to_pixels(F.conv2d(_framed(latents), self.kernel.to(latents), self.bias.to(latents)))

    def to_json(self) -> str:
        return json.dumps({"kernel": self.kernel.tolist(), "bias": self.bias.tolist()})


def read_preview_map(path: Path) -> PreviewMap:
    """The map that `PreviewMap.to_json` wrote to `path`. Raises `ModelError` if it is malformed."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kernel, bias = torch.tensor(content["kernel"]).float(), torch.tensor(content["bias"]).float()
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, RecursionError) as error:
        raise ModelError(
            f"{path} is not a preview map: {error!r:.200}", hint="without the file, one is fitted to the autoencoder"
        ) from error
    shape = (3, kernel.shape[1] if kernel.ndim > 1 else 0, _NEIGHBOURS, _NEIGHBOURS)
    if kernel.shape != shape or bias.shape != (3,) or not (kernel.isfinite().all() and bias.isfinite().all()):
        raise ModelError(f"{path} is not a preview map", hint="it has a 'kernel' of 3×4×3×3 numbers and a 'bias' of 3")
    return PreviewMap(kernel, bias)


def fit_preview_map(vae: AutoencoderKL) -> PreviewMap:
    """The map for an autoencoder, from what it makes of pictures of coloured shapes. Deterministic.

    Raises `ModelError` if it turns them into values that are not numbers.
    """
    pictures = np.stack([np.asarray(picture, dtype=np.float32) / 255 for picture in _pictures()])
    with torch.no_grad():
        latents = encode_mean(vae, torch.from_numpy(pictures).permute(0, 3, 1, 2))
        decoded = decode(vae, latents)
    if not (latents.isfinite().all() and decoded.isfinite().all()):
        raise ModelError(
            "the model's autoencoder turns pictures into values that are not numbers", hint="its weights are damaged"
        )
    return fit(latents.cpu(), decoded.clamp(0, 1).cpu())


def fit(latents: Tensor, images: Tensor) -> PreviewMap:
    """The least-squares map from latents [N, 4, h, w] to images [N, 3, H, W] of colours from 0 to 1."""
    height, width = latents.shape[2:]
    colors = F.adaptive_avg_pool2d(images, (height, width)).permute(0, 2, 3, 1).reshape(-1, 3)
    patches = F.unfold(_framed(latents), _NEIGHBOURS).transpose(1, 2).flatten(0, 1)
    with_bias = torch.cat([patches, torch.ones(len(patches), 1)], dim=1)
    # LAPACK's last bits change from call to call: solve in double precision, and keep what does not.
    solution = torch.linalg.lstsq(with_bias.double(), colors.double()).solution.round(decimals=6).float()
    return PreviewMap(solution[:-1].T.reshape(3, -1, _NEIGHBOURS, _NEIGHBOURS), solution[-1])


def _framed(latents: Tensor) -> Tensor:
    """Latents with their outermost pixels repeated, so that those have neighbours too."""
    return F.pad(latents, [_NEIGHBOURS // 2] * 4, mode="replicate")


def _pictures() -> list[Image.Image]:
    """Shapes in all colours on soft backgrounds: as colourful and as full of edges as what people draw."""
    chance = random.Random(0)  # noqa: S311 - no secret
    pictures: list[Image.Image] = []
    for _ in range(_PICTURES):
        corners = Image.frombytes("RGB", (2, 2), chance.randbytes(12))
        picture = corners.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
        pen = ImageDraw.Draw(picture)
        for _ in range(_SHAPES):
            left, top = chance.randrange(-_SIDE // 4, _SIDE), chance.randrange(-_SIDE // 4, _SIDE)
            box = left, top, left + chance.randrange(3, _SIDE // 2), top + chance.randrange(3, _SIDE // 2)
            draw = chance.choice((pen.rectangle, pen.ellipse))
            draw(box, fill=tuple(chance.randbytes(3)))
        pictures.append(picture)
    return pictures
