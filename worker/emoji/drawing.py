"""Drawing with a trained model, for the training's sample sheets and the evaluation: the four modes in one loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler
from PIL import Image
from torch import Tensor

from worker.emoji.corpus import SIZE
from worker.emoji.dataset import as_tensor
from worker.emoji.text import tokenize

_LMS_ORDER = 4
_LATENT_SHAPE = (4, SIZE // 8, SIZE // 8)
_CHUNK = 16

Prompt = str | Sequence[tuple[str, float]]
"""A caption, or several with weights, whose embeddings are summed."""


@dataclass(frozen=True)
class Start:
    """An image to start from, at ``step`` of the schedule: the later, the more of it stays."""

    image: Image.Image
    step: int


@dataclass(frozen=True)
class Pull:
    """A pull towards blue: ``scale`` times the gradient of the distance of the blue channel from 0.9, at every step."""

    scale: float


def load(model: Path) -> StableDiffusionPipeline:
    """Load a model directory in float32 on the CPU."""
    pipeline = StableDiffusionPipeline.from_pretrained(model).to(torch.float32)
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        module.eval().requires_grad_(False)
    return pipeline


def draw(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[Prompt],
    *,
    steps: int = 20,
    guidance: float = 4.0,
    seeds: Sequence[int] | int = 0,
    start: Start | None = None,
    pull: Pull | None = None,
) -> list[Image.Image]:
    """Draw one 128×128 picture for each prompt; one seed serves all, or each has its own.

    The solver is the linear multistep method of order four under classifier-free guidance (Ho and Salimans 2022).
    """
    each = [seeds] * len(prompts) if isinstance(seeds, int) else list(seeds)
    pictures: list[Image.Image] = []
    for first in range(0, len(prompts), _CHUNK):
        chunk = slice(first, first + _CHUNK)
        latents = _sample(pipeline, prompts[chunk], each[chunk], steps, guidance, start, pull)
        pictures += _to_images(_decode(pipeline, latents))
    return pictures


def _sample(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    steps: int,
    guidance: float,
    start: Start | None,
    pull: Pull | None,
) -> Tensor:
    """Scaled latents (n, 4, 16, 16), solved from noise or from a noised image."""
    scheduler = LMSDiscreteScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(steps)
    first = start.step if start else 0
    scheduler.set_begin_index(first)
    noise = torch.stack([torch.randn(_LATENT_SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    latents: Tensor = noise * scheduler.sigmas[first] + (_encode(pipeline, start.image) if start else 0)
    context = torch.cat([embed(pipeline, [""] * len(prompts)), embed(pipeline, prompts)])
    for index in range(first, steps):
        sigma, timestep = scheduler.sigmas[index], scheduler.timesteps[index]
        with torch.no_grad():
            rows = torch.cat([latents, latents]) / (sigma**2 + 1).sqrt()
            unconditional, conditional = pipeline.unet(rows, timestep, encoder_hidden_states=context).sample.chunk(2)
        predicted = unconditional + guidance * (conditional - unconditional)
        if pull:
            latents = latents - sigma**2 * _blue_gradient(pipeline, latents - sigma * predicted, pull)
        # the history is empty at the first step, wherever in the schedule that is
        scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(predicted, timestep, latents, order=min(_LMS_ORDER, index - first + 1)).prev_sample
    return latents


def embed(pipeline: StableDiffusionPipeline, prompts: Sequence[Prompt]) -> Tensor:
    """The embeddings of prompts, (n, 77, width); a weighted prompt is the sum of its parts' embeddings."""
    weighted = [[(prompt, 1.0)] if isinstance(prompt, str) else list(prompt) for prompt in prompts]
    with torch.no_grad():
        sums = [torch.stack([w * _embed_one(pipeline, text) for text, w in parts]).sum(0) for parts in weighted]
    return torch.stack(sums)


def _embed_one(pipeline: StableDiffusionPipeline, text: str) -> Tensor:
    hidden: Tensor = pipeline.text_encoder(tokenize(pipeline.tokenizer, [text])).last_hidden_state[0]
    return hidden


def _encode(pipeline: StableDiffusionPipeline, image: Image.Image) -> Tensor:
    with torch.no_grad():
        mean: Tensor = pipeline.vae.encode(as_tensor(np.asarray(image.convert("RGB"))[None])).latent_dist.mean
    scaling: float = pipeline.vae.config.scaling_factor
    return mean * scaling


def _blue_gradient(pipeline: StableDiffusionPipeline, clean: Tensor, pull: Pull) -> Tensor:
    """The gradient of the blue loss by the predicted clean latents, through the decoder alone."""
    with torch.enable_grad():
        clean = clean.detach().requires_grad_()
        blue = (pipeline.vae.decode(clean / pipeline.vae.config.scaling_factor).sample[:, 2] + 1) / 2
        distance = (blue - 0.9).abs().mean((1, 2)).sum()
        gradient: Tensor = torch.autograd.grad(distance, clean)[0]
    return pull.scale * gradient


def _decode(pipeline: StableDiffusionPipeline, latents: Tensor) -> Tensor:
    with torch.no_grad():
        decoded: Tensor = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    return decoded


def _to_images(decoded: Tensor) -> list[Image.Image]:
    levels = decoded.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in levels]


def sheet(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """The images side by side, in rows of ``columns``."""
    width, height = images[0].size
    result = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    for index, image in enumerate(images):
        result.paste(image, (index % columns * width, index // columns * height))
    return result
