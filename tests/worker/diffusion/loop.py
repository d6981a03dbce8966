"""The denoising loop in its plainest form, for one job: what the plans are held against diffusers with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LMSDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from PIL import Image
from torch import Tensor

from farm.jobs.spec import SamplerName
from worker.diffusion.guidance import guide, needs_unconditional
from worker.diffusion.latents import encode, image_tensor
from worker.diffusion.noise import NoiseStream
from worker.diffusion.schedules import read_schedule
from worker.diffusion.solvers import HISTORY, Column, plan
from worker.models.model import LoadedModel

SCHEDULERS: dict[SamplerName, tuple[Any, dict[str, Any]]] = {
    "lms": (LMSDiscreteScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
}


@dataclass(frozen=True)
class Job:
    sampler: SamplerName
    steps: int
    seed: int = 0
    guidance: float = 7.5
    prompt: str = "a cat in the apple"
    negative: str = ""
    width: int = 64
    height: int = 64
    image: Image.Image | None = None
    strength: float = 1.0

    @property
    def start(self) -> int:
        return self.steps - int(self.steps * self.strength)


def scheduler_of(model: LoadedModel, sampler: SamplerName) -> Any:
    scheduler, overrides = SCHEDULERS[sampler]
    return scheduler.from_config(dict(model.scheduler_config), **overrides)


def render(model: LoadedModel, job: Job) -> Tensor:
    """The job's final latents, [1, 4, h, w], by its plan."""
    steps = plan(read_schedule(model.scheduler_config, job.sampler, job.steps), job.start)
    noise = NoiseStream(job.seed)
    shape = (1, 4, job.height // 8, job.width // 8)
    if job.image is None:
        x = steps.init_scale * noise.draw(shape)
    else:
        latent = encode(model.vae, image_tensor(job.image, job.width, job.height), noise)
        x = steps.start_alpha * latent + steps.start_sigma * noise.draw(shape)
    history = [torch.zeros(shape)] * HISTORY
    for row in torch.from_numpy(steps.table):
        c = {column: row[column] for column in Column}
        out = _predict(model, job, c[Column.INPUT_SCALE] * x, c[Column.TIMESTEP])
        h = c[Column.H_X] * x + c[Column.H_OUT] * out
        x = c[Column.A] * x + c[Column.B0] * h
        x = x + sum(c[Column(Column.B1 + k)] * older for k, older in enumerate(history))
        if c[Column.NOISE]:
            x = x + c[Column.NOISE] * noise.draw(shape)
        history = [h, *history[:-1]]
    return x


@torch.no_grad()
def _predict(model: LoadedModel, job: Job, x: Tensor, timestep: Tensor) -> Tensor:
    texts = [job.negative, job.prompt] if needs_unconditional(job.guidance) else [job.prompt]
    embeddings = torch.cat([model.prompts.encode(text).embedding for text in texts])
    rows = len(texts)
    out: Tensor = model.unet(x.expand(rows, -1, -1, -1), timestep.expand(rows), embeddings).sample
    if rows == 1:
        return out
    return guide(out[:1], out[1:], torch.tensor([job.guidance]))


def render_by_diffusers(model: LoadedModel, job: Job) -> Tensor:
    """The job's final latents by diffusers' own pipeline and scheduler."""
    pipeline_class: Any = StableDiffusionPipeline if job.image is None else StableDiffusionImg2ImgPipeline
    pipeline = pipeline_class(
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=scheduler_of(model, job.sampler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    size: dict[str, Any] = {"width": job.width, "height": job.height}
    image: dict[str, Any] = {"image": job.image, "strength": job.strength}
    latents: Tensor = pipeline(
        job.prompt,
        negative_prompt=job.negative,
        num_inference_steps=job.steps,
        guidance_scale=job.guidance,
        generator=torch.Generator().manual_seed(job.seed),
        output_type="latent",
        **(size if job.image is None else image),
    ).images
    return latents


def distance(left: Tensor, right: Tensor) -> float:
    assert left.shape == right.shape
    return float((left - right).abs().max())
