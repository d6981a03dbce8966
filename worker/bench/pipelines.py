"""The arms that people would use instead: diffusers' own pipelines, job by job or in batches of jobs alike.

Their pictures are the farm's for text to image; losses and traces are what a callback can do for them, which
costs what the farm's cost. LMS coefficients come from diffusers' quadrature, or memoised, which diffusers does not do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler
from torch import Tensor

from farm.jobs.spec import ResolvedSpec, SamplerName
from worker.bench.adapting import for_diffusers
from worker.bench.measure import Render, Served
from worker.bench.workloads import Job
from worker.diffusion import latents, samplers
from worker.diffusion.conditioning import Conditioning
from worker.diffusion.losses import load_losses
from worker.families.family import Family
from worker.families.sd import SD
from worker.families.sdxl import SDXL
from worker.models.components import read_directory
from worker.models.device import Placement

_NO_CHECKS = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
_CLASSES: dict[Family, tuple[tuple[Any, Any], dict[str, Any]]] = {
    SD: ((StableDiffusionPipeline, StableDiffusionImg2ImgPipeline), _NO_CHECKS),
    SDXL: ((StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline), {"add_watermarker": False}),
}
"""Of each family the pipelines from noise and from a picture, and what they are told besides."""
_ALONE = {"do_classifier_free_guidance": False}


class MemoisedLMS(LMSDiscreteScheduler):
    """diffusers' LMS, which integrates each coefficient once for each number of steps and not at every step."""

    def get_lms_coefficient(self, order: int, t: int, current_order: int) -> float:
        known: dict[Hashable, float] = self.__dict__.setdefault("_coefficients", {})  # of this model's schedule
        key = (self.num_inference_steps, order, t, current_order)
        if key not in known:
            known[key] = super().get_lms_coefficient(order, t, current_order)
        return known[key]


class Pipelines:
    """diffusers' pipelines over one model's weights, loaded for them alone."""

    def __init__(self, name: str, directory: Path, placement: Placement, *, compiled: str | None = None) -> None:
        """`compiled` is a mode of `torch.compile`; None: not compiled."""
        parts = read_directory(name, directory, placement)
        self._config = dict(parts.scheduler_config)
        self._vae = parts.vae
        self._zeros_for_nothing = parts.layout.zeros_for_nothing
        shared: dict[str, Any] = {**parts.modules, "scheduler": LMSDiscreteScheduler.from_config(self._config)}
        for part, encoder in zip(parts.layout.family.encoders, parts.encoders, strict=True):
            shared[part.tokenizer] = encoder.tokenizer
        (from_noise, from_picture), besides = _CLASSES[parts.layout.family]
        shared |= besides
        self._from_noise = from_noise(**shared).to(placement.device)
        self._from_picture = from_picture(**shared)
        if placement.channels_last:
            modules: list[torch.nn.Module] = [parts.unet, parts.vae]
            for module in modules:
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        if compiled:
            compiled_unet: Any = torch.compile(parts.unet, mode=compiled)
            self._from_noise.unet = self._from_picture.unet = compiled_unet
        self._losses = load_losses()
        self._schedulers: dict[tuple[SamplerName, bool], Any] = {}
        for pipeline in (self._from_noise, self._from_picture):
            pipeline.set_progress_bar_config(disable=True)

    def job_by_job(self, jobs: Sequence[Job], clock: Callable[[], float], *, memoised: bool) -> list[Served]:
        """Each job in a call of its own, in order."""
        return [served for job in jobs for served in self._call([job], clock, memoised)]

    def alike_together(
        self, jobs: Sequence[Job], clock: Callable[[], float], *, memoised: bool, at_most: int
    ) -> list[Served]:
        """Jobs alike in steps, guidance, sampler and mode in one call, `at_most` of them together."""
        served: list[Served] = []
        for group in groups(jobs):
            for start in range(0, len(group), at_most):
                served += self._call(group[start : start + at_most], clock, memoised)
        return served

    @contextmanager
    def switching(self, jobs: Sequence[Job]) -> Iterator[Render]:
        """Renders each job in a call of its own, under the one adapter that it has: all are loaded before, and the
        pipeline switches from one to the next."""
        pipeline, names = self._from_noise, {job.id: f"of_{number}" for number, job in enumerate(jobs)}

        def render(clock: Callable[[], float]) -> list[Served]:
            served: list[Served] = []
            for job in jobs:
                pipeline.set_adapters([names[job.id]], [job.stack[0].unet])
                served += self._call([job], clock, memoised=True)
            return served

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # there are to be several
            for job in jobs:
                pipeline.load_lora_weights(for_diffusers(job.stack[0].adapter), adapter_name=names[job.id])
        try:
            yield render
        finally:
            pipeline.unload_lora_weights()

    @torch.no_grad()
    def forward(self, conditioning: Conditioning, rows: int) -> Tensor:
        """One forward of the UNet, as a pipeline calls it, all rows conditioned alike."""
        unet = self._from_noise.unet
        channels, side = unet.config["in_channels"], unet.config["sample_size"]
        x = torch.zeros((rows, channels, side, side), device=unet.device, dtype=unet.dtype)
        given = Conditioning.stacked([conditioning] * rows).arguments
        out: Tensor = unet(x, torch.tensor(500.0, device=unet.device), **given).sample
        return out

    def _call(self, jobs: Sequence[Job], clock: Callable[[], float], memoised: bool) -> list[Served]:
        spec = jobs[0].spec
        served = [Served(job.id) for job in jobs]
        pipeline = self._from_picture if spec.start.image else self._from_noise
        pipeline.scheduler = self._scheduler(spec.sampler, memoised)
        size: dict[str, Any] = {"width": spec.width, "height": spec.height}
        start: dict[str, Any] = {
            "image": [job.picture for job in jobs],
            "strength": (spec.steps - spec.start.step + 0.5) / spec.steps,
        }
        result = pipeline(
            **self._embeddings("", [self._mixed(job.spec) for job in jobs]),
            **self._embeddings("negative_", [self._negative(job.spec) for job in jobs]),
            num_inference_steps=spec.steps,
            guidance_scale=spec.guidance.scale,
            generator=[torch.Generator().manual_seed(job.spec.seed) for job in jobs],
            output_type="np",
            callback_on_step_end=self._callback(spec, served, clock),
            **(start if spec.start.image else size),
        )
        done = clock()
        for one, picture in zip(served, result.images, strict=True):
            one.done, one.pixels = done, (picture * 255).round().astype(np.uint8)
        return served

    def _scheduler(self, name: SamplerName, memoised: bool) -> Any:
        """One object a sampler, kept: making one takes longer than a step."""
        known = self._schedulers.get((name, memoised))
        if known is None:
            sampler = samplers.BY_NAME[name]
            scheduler = MemoisedLMS if sampler is samplers.LMS and memoised else sampler.scheduler
            known = self._schedulers[name, memoised] = scheduler.from_config(self._config, **sampler.settings)
        return known

    def _embeddings(self, prefix: str, jobs: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
        """The embeddings of several jobs, by the names of a pipeline's arguments."""
        names = (f"{prefix}prompt_embeds", f"{prefix and 'negative_'}pooled_prompt_embeds")
        return {name: torch.cat(parts) for name, parts in zip(names, zip(*jobs, strict=True), strict=False)}

    def _mixed(self, spec: ResolvedSpec) -> list[Tensor]:
        prompts = spec.conditioning.prompts
        parts = zip(*(self._embedded(prompt.text) for prompt in prompts), strict=True)
        return [sum(prompt.weight * one for prompt, one in zip(prompts, part, strict=True)) for part in parts]

    def _negative(self, spec: ResolvedSpec) -> list[Tensor]:
        embedded = self._embedded(spec.conditioning.negative)
        are_zeros = not spec.conditioning.negative and self._zeros_for_nothing
        return [torch.zeros_like(part) for part in embedded] if are_zeros else embedded

    @torch.no_grad()
    def _embedded(self, prompt: str) -> list[Tensor]:
        """A prompt's embedding, and the whole prompt's where the family reads one."""
        pipeline = self._from_noise
        found = pipeline.encode_prompt(prompt, device=pipeline.device, num_images_per_prompt=1, **_ALONE)
        return [found[index] for index in (0, 2) if index < len(found)]

    def _callback(self, spec: ResolvedSpec, served: Sequence[Served], clock: Callable[[], float]) -> Callable[..., Any]:
        """Notes the first step; follows the losses and decodes the frames of jobs that ask for them."""
        terms = [(self._losses.term(term), term.every) for term in spec.guidance.losses]

        def after_step(_: Any, index: int, __: Any, given: dict[str, Any]) -> dict[str, Any]:
            if index == 0:
                for one in served:
                    one.first_step = clock()
            x = given["latents"]
            due = [loss for loss, every in terms if (spec.start.step + index) % every == 0]
            if due:
                gradient, _values = latents.loss_gradient(self._vae, x.float(), [due] * len(x))
                given["latents"] = x - 0.01 * gradient.to(x)
            if spec.trace.level in ("frames", "video") and index % spec.trace.every == 0:
                for frame in (x, x):  # the latents and the predicted x₀
                    latents.to_pixels(_decoded(self._vae, frame)).cpu()
            return given

        return after_step


def groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs that may share one call of a pipeline: in order of the first of each."""
    together: dict[Hashable, list[Job]] = {}
    for job in jobs:
        together.setdefault(_kind(job.spec), []).append(job)
    return list(together.values())


def _kind(spec: ResolvedSpec) -> Hashable:
    loss_names = tuple(loss.model_dump_json() for loss in spec.guidance.losses)
    guidance = spec.guidance.scale
    return spec.steps, spec.start.step, guidance, spec.sampler, spec.width, spec.height, loss_names, spec.trace


@torch.no_grad()
def _decoded(vae: Any, x: Tensor) -> Tensor:
    return latents.decode(vae, x)
