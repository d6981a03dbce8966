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
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image
from torch import Tensor

from farm.jobs.spec import SamplerName
from worker.diffusion.conditioning import Conditioning
from worker.diffusion.guidance import guide, needs_unconditional
from worker.diffusion.latents import encode, image_tensor
from worker.diffusion.noise import NoiseStream
from worker.diffusion.schedules import read_schedule
from worker.diffusion.solvers import HISTORY, Coefficient, plan
from worker.families.family import Size
from worker.families.sdxl import SDXL
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
        c = {column: row[column] for column in Coefficient}
        out = _predict(model, job, c[Coefficient.INPUT_SCALE] * x, c[Coefficient.TIMESTEP])
        h = c[Coefficient.H_X] * x + c[Coefficient.H_OUT] * out
        x = c[Coefficient.A] * x + c[Coefficient.B0] * h
        x = x + sum(c[Coefficient(Coefficient.B1 + k)] * older for k, older in enumerate(history))
        if c[Coefficient.NOISE]:
            x = x + c[Coefficient.NOISE] * noise.draw(shape)
        history = [h, *history[:-1]]
    return x


@torch.no_grad()
def _predict(model: LoadedModel, job: Job, x: Tensor, timestep: Tensor) -> Tensor:
    read = [model.prompts.encode(job.prompt)]
    if needs_unconditional(job.guidance):
        read.insert(0, model.prompts.encode_negative(job.negative))
    size, rows = Size(job.width, job.height), len(read)
    given = Conditioning.stacked([model.family.conditioned(text.embedding, text, size) for text in read])
    out: Tensor = model.unet(x.expand(rows, -1, -1, -1), timestep.expand(rows), **given.arguments).sample
    if rows == 1:
        return out
    return guide(out[:1], out[1:], torch.tensor([job.guidance]))


def render_by_diffusers(model: LoadedModel, job: Job) -> Tensor:
    """The job's final latents by diffusers' own pipeline and scheduler."""
    pipeline = pipeline_of(model, from_noise=job.image is None, scheduler=scheduler_of(model, job.sampler))
    size: dict[str, Any] = {"width": job.width, "height": job.height}
    image: dict[str, Any] = {"image": job.image, "strength": job.strength}
    latents: Tensor = pipeline(
        job.prompt,
        negative_prompt=job.negative or None,
        num_inference_steps=job.steps,
        guidance_scale=job.guidance,
        generator=torch.Generator().manual_seed(job.seed),
        output_type="latent",
        **(size if job.image is None else image),
    ).images
    return latents


def pipeline_of(model: LoadedModel, *, from_noise: bool, scheduler: Any) -> Any:
    """diffusers' pipeline of the model's family, over the model's own parts."""
    parts = {"vae": model.vae, "unet": model.unet, "scheduler": scheduler}
    parts |= {part.folder: encoder.module for part, encoder in zip(model.family.encoders, model.encoders, strict=True)}
    parts |= {
        part.tokenizer: encoder.tokenizer for part, encoder in zip(model.family.encoders, model.encoders, strict=True)
    }
    kind: Any
    if model.family is SDXL:
        kind = StableDiffusionXLPipeline if from_noise else StableDiffusionXLImg2ImgPipeline
        parts |= {"force_zeros_for_empty_prompt": model.prompts.encode_negative("").embedding.abs().max() == 0}
        parts |= {"add_watermarker": False}
    else:
        kind = StableDiffusionPipeline if from_noise else StableDiffusionImg2ImgPipeline
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = kind(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def distance(left: Tensor, right: Tensor) -> float:
    assert left.shape == right.shape
    return float((left - right).abs().max())
