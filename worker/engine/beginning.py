"""Where a job's steps begin: noise, or its picture with noise; and what of the picture is kept all along.

The order of draws is that of diffusers' pipelines: the picture's sample, the noise, the masked picture's sample. What a
fill of noise needs is drawn after that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from worker.diffusion import latents
from worker.diffusion.masking import Kept, hidden, latent_mask, mask_tensor, masked_picture
from worker.diffusion.noise import NoiseStream
from worker.diffusion.plans import SamplingPlan
from worker.engine.request import RenderRequest, latent_shape


@dataclass(frozen=True, eq=False)
class Beginning:
    """The first latents `x` [4, h, w], what is `kept`, and what an inpainting model reads `beside` [5, h, w]."""

    x: Tensor
    kept: Kept | None = None
    beside: Tensor | None = None


@torch.no_grad()
def begin(request: RenderRequest, steps: SamplingPlan, noise: NoiseStream) -> Beginning:
    """Where the steps of a job begin. Draws what is random from its stream."""
    if request.picture is None:  # or it was encoded by an earlier attempt
        x = (steps.init_scale * noise.draw((1, *latent_shape(request.spec, request.model))))[0]
        return Beginning(x.to(request.model.device), beside=_nothing_beside(request))
    image = latents.image_tensor(request.picture, request.spec.width, request.spec.height, request.spec.start.fit)
    if request.mask is None:
        encoded = _encoded(request, image, noise)
        fresh = noise.draw(tuple(encoded.shape)).to(encoded.device)
        return Beginning((steps.start_alpha * encoded + steps.start_sigma * fresh)[0], beside=_nothing_beside(request))
    return _masked(request, request.mask, image, steps, noise)


def _masked(
    request: RenderRequest, mask: Image.Image, image: Tensor, steps: SamplingPlan, noise: NoiseStream
) -> Beginning:
    """From the first step on, nothing of what is redone shows through, unless the fill is meant to: it is all noise."""
    spec, model = request.spec, request.model
    pixels = mask_tensor(mask)
    in_latents = latent_mask(pixels, model.vae_factor).to(model.device)
    is_noise = spec.start.step == 0 and spec.start.fill != "blur"
    encoded = None if is_noise and model.reads_masks else _encoded(request, image, noise)
    fresh = noise.draw((1, *latent_shape(spec, model))).to(model.device)
    beside = None
    if model.reads_masks:
        read = _encoded(request, masked_picture(image, pixels), noise)
        beside = torch.cat([latent_mask(hidden(pixels), model.vae_factor).to(model.device), read], dim=1)[0]
    if is_noise or encoded is None:
        x = steps.init_scale * fresh
    else:
        begun = encoded
        if spec.start.fill == "noise":
            begun = (1 - in_latents) * encoded + in_latents * noise.draw(tuple(encoded.shape)).to(encoded.device)
        x = steps.start_alpha * begun + steps.start_sigma * fresh
    kept = None if model.reads_masks or encoded is None else Kept(in_latents[0], encoded[0], fresh[0])
    return Beginning(x[0], kept, beside)


def _nothing_beside(request: RenderRequest) -> Tensor | None:
    """What an inpainting model reads of a job without a mask: all is masked, and the picture is grey."""
    spec, model = request.spec, request.model
    if not model.reads_masks:
        return None
    grey = torch.full((1, 3, spec.height, spec.width), 0.5)
    read = latents.encode_mean(model.vae, grey)
    return torch.cat([torch.ones_like(read[:, :1]), read], dim=1)[0]


def _encoded(request: RenderRequest, image: Tensor, noise: NoiseStream) -> Tensor:
    """An image's latents [1, 4, h, w], as the job wants them."""
    if request.spec.start.encode == "mean":
        return latents.encode_mean(request.model.vae, image)
    return latents.encode(request.model.vae, image, noise)
