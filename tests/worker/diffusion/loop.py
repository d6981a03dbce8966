"""The denoising loop in its plainest form, for one job: what the plans are held against diffusers with."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UniPCMultistepScheduler,
)
from PIL import Image
from torch import Tensor

from farm.jobs.samplers import SamplerName, ScheduleName
from worker.diffusion import samplers
from worker.diffusion.conditioning import Conditioning
from worker.diffusion.guidance import guide, needs_unconditional
from worker.diffusion.latents import encode, image_tensor
from worker.diffusion.noise import NoiseStream
from worker.diffusion.plans import Coefficient, plan
from worker.diffusion.schedules import read_schedule
from worker.diffusion.steps import HISTORY
from worker.families.family import Frame
from worker.families.sdxl import SDXL
from worker.models.model import LoadedModel

sys.modules.setdefault("torchsde", ModuleType("torchsde"))  # which makes its noise: none that is wanted here
_SDE: Any = importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde").DPMSolverSDEScheduler
_MULTISTEP: Any = DPMSolverMultistepScheduler


class DPMSolverSDE(_SDE):  # type: ignore[misc]
    """diffusers', with independent noise in each of its evaluations, as `draw` makes it."""

    draw: Callable[[Tensor], Tensor]

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any:
        self.noise_sampler = lambda *_: self.draw(sample)
        return super().step(model_output, timestep, sample, **options)


class ThirdOrderSDE(_MULTISTEP):  # type: ignore[misc]
    """diffusers', with the sign within φ₃ that k-diffusion and its own solver without noise have."""

    def multistep_dpm_solver_third_order_update(
        self, model_output_list: list[Tensor], *_: Any, sample: Tensor, noise: Tensor, **__: Any
    ) -> Tensor:
        made: Tensor = super().multistep_dpm_solver_third_order_update(model_output_list, sample=sample, noise=noise)
        levels = [self._sigma_to_alpha_sigma_t(self.sigmas[self.step_index + 1 - age]) for age in range(4)]
        rates = [torch.log(alpha) - torch.log(sigma) for alpha, sigma in levels]
        h, h_0, h_1 = (rates[age] - rates[age + 1] for age in range(3))
        newest, older, oldest = model_output_list[-1], model_output_list[-2], model_output_list[-3]
        second = (h / h_0 * (newest - older) - h / h_1 * (older - oldest)) * h / (h_0 + h_1)
        corrected: Tensor = made + levels[0][0] * second  # −½ there, +½ here
        return corrected


class _AtOnce:
    """KDPM2, without reckoning the timesteps of a thousand steps as it is made."""

    def set_timesteps(self, steps: int, device: Any = None, trained: int | None = None) -> None:
        self.sigmas = torch.zeros(1)
        if trained is None:
            super().set_timesteps(steps, device)  # type: ignore[misc]

    def _sigma_to_t(self, sigma: Any, log_sigmas: Any) -> Any:
        return super()._sigma_to_t(np.asarray(sigma), np.asarray(log_sigmas))  # type: ignore[misc]


class KDPM2(_AtOnce, KDPM2DiscreteScheduler):
    pass


class KDPM2Ancestral(_AtOnce, KDPM2AncestralDiscreteScheduler):
    pass


SCHEDULERS: dict[SamplerName, tuple[Any, dict[str, Any]]] = {
    "lms": (LMSDiscreteScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "heun": (HeunDiscreteScheduler, {"clip_sample": False}),
    "dpm2": (KDPM2, {}),
    "dpm2_a": (KDPM2Ancestral, {}),
    "dpmpp_sde": (DPMSolverSDE, {}),
    "dpmpp_2m_sde": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_3m_sde": (ThirdOrderSDE, {"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "solver_type": "heun"}),
    "unipc": (UniPCMultistepScheduler, {}),
    "deis": (DEISMultistepScheduler, {"algorithm_type": "deis"}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "ddpm": (DDPMScheduler, {"clip_sample": False, "variance_type": "fixed_small"}),
    "lcm": (LCMScheduler, {"clip_sample": False}),
}

SPACED: dict[ScheduleName, dict[str, Any]] = {
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "trailing": {"timestep_spacing": "trailing"},
}
"""What diffusers calls the schedules that a job may ask for."""


def scheduler_for(config: dict[str, Any], sampler: SamplerName, **more: Any) -> Any:
    """diffusers' own scheduler for a sampler, without timesteps."""
    return deepcopy(_scheduler_for(json.dumps(config), sampler, json.dumps(more)))


@lru_cache(maxsize=64)
def _scheduler_for(written: str, sampler: SamplerName, more: str) -> Any:
    config, (scheduler_class, overrides) = json.loads(written), SCHEDULERS[sampler]
    scheduler = scheduler_class.from_config(config, **{**overrides, **json.loads(more)})
    if config.get("rescale_betas_zero_snr") and not samplers.BY_NAME[sampler].knows_zero_snr:
        scheduler.alphas_cumprod = EulerDiscreteScheduler.from_config(config).alphas_cumprod
    return scheduler


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
    schedule: ScheduleName = "model"
    eta: float | None = None
    frame: Frame | None = None
    """None: whole."""

    @property
    def start(self) -> int:
        return self.steps - int(self.steps * self.strength)


def render(model: LoadedModel, job: Job) -> Tensor:
    """The job's final latents, [1, 4, h, w], by its plan."""
    schedule = read_schedule(model.scheduler_config, job.sampler, job.steps, spacing=job.schedule, eta=job.eta)
    steps = plan(schedule, job.start)
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
        x = c[Coefficient.A] * x + c[Coefficient.OUT] * out + c[Coefficient.B0] * h
        x = x + sum(c[Coefficient(Coefficient.B1 + k)] * older for k, older in enumerate(history))
        if c[Coefficient.NOISE]:
            x = x + c[Coefficient.NOISE] * noise.draw(shape)
        history = [h, *history[:-1]] if c[Coefficient.REMEMBER] else history
    return x


@torch.no_grad()
def _predict(model: LoadedModel, job: Job, x: Tensor, timestep: Tensor) -> Tensor:
    read = [model.prompts.encode(job.prompt)]
    if needs_unconditional(job.guidance):
        read.insert(0, model.prompts.encode_negative(job.negative))
    frame, rows = job.frame or Frame.whole(job.width, job.height), len(read)
    given = Conditioning.stacked([model.family.conditioned(text.embedding, text, frame) for text in read])
    out: Tensor = model.unet(x.expand(rows, -1, -1, -1), timestep.expand(rows), **given.arguments).sample
    if rows == 1:
        return out
    return guide(out[:1], out[1:], torch.tensor([job.guidance]))


def render_by_diffusers(model: LoadedModel, job: Job, **config: Any) -> Tensor:
    """The job's final latents by diffusers' own pipeline and scheduler, which is told `config` besides."""
    generator = torch.Generator().manual_seed(job.seed)
    scheduler = scheduler_for(dict(model.scheduler_config), job.sampler, **config)
    scheduler.draw = lambda sample: torch.randn(sample.shape, generator=generator)
    pipeline = pipeline_of(model, from_noise=job.image is None, scheduler=scheduler)
    size: dict[str, Any] = {"width": job.width, "height": job.height}
    image: dict[str, Any] = {"image": job.image, "strength": job.strength}
    latents: Tensor = pipeline(
        job.prompt,
        negative_prompt=job.negative or None,
        num_inference_steps=job.steps,
        guidance_scale=job.guidance,
        generator=generator,
        output_type="latent",
        eta=job.eta or 0.0,
        **(size if job.image is None else image),
        **({} if job.frame is None else _told(job.frame)),
    ).images
    return latents


def _told(frame: Frame) -> dict[str, tuple[int, int]]:
    """As diffusers' pipelines of SDXL take it: height before width, and what was cut off above before the left."""
    original, target = ((size.height, size.width) for size in (frame.original, frame.target))
    return {"original_size": original, "crops_coords_top_left": (frame.top, frame.left), "target_size": target}


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
