"""What is tried: models on the device in every precision, and jobs of every kind for them.

Without a GPU the same is rehearsed on the CPU, with models that are small enough for a test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from farm.jobs.spec import SAMPLERS, TRACE_LEVELS
from tests import adapters
from tests.tiny import build_tiny_model, build_tiny_xl
from worker.bench import workloads
from worker.bench.weights import random_weights
from worker.bench.workloads import Job
from worker.diffusion.adapters import Use
from worker.diffusion.losses import load_losses
from worker.engine.request import RenderRequest
from worker.models.device import Placement, place
from worker.models.loader import ModelLoader
from worker.models.model import LoadedModel
from worker.models.registry import BUILT_IN, LocalDirectory

Kind = Literal["bundled", "sdxl", "shaped"]
"""The model that comes along, which was trained, a small one of SDXL's family, and one of Stable Diffusion 1.4's shape:
both of random weights."""


@dataclass(frozen=True)
class Subjects:
    """The models and jobs of one run. `scratch` holds what is made for it."""

    device: torch.device
    scratch: Path

    @property
    def is_rehearsal(self) -> bool:
        """Whether there is no GPU, so that everything is small and no speed means anything."""
        return self.device.type == "cpu"

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The models to try; in a rehearsal they would be alike."""
        return ("sdxl", "shaped") if self.is_rehearsal else ("bundled", "sdxl", "shaped")

    @property
    def dtype(self) -> torch.dtype:
        """The precision that a worker chooses here."""
        return self._usual.dtype

    def dtypes(self, kind: Kind) -> tuple[torch.dtype, ...]:
        """The precisions that GPUs have, and older ones of the trained model alone; a rehearsal takes the one for which
        the autoencoder keeps another."""
        if self.is_rehearsal:
            return (torch.float16,)
        return (torch.bfloat16, torch.float16) if kind == "bundled" else (torch.bfloat16,)

    @property
    def rows(self) -> int:
        """Of a full batch."""
        return 8 if self.is_rehearsal else 64

    @property
    def steps(self) -> int:
        """Of a job whose length does not matter."""
        return 4 if self.is_rehearsal else 10

    @cached_property
    def _usual(self) -> Placement:
        return place(str(self.device))

    def placement(self, dtype: torch.dtype) -> Placement:
        """The device with the given precision; the autoencoder never has float16 (see `place`)."""
        vae = torch.float32 if dtype == torch.float16 else dtype
        last = self.device.type == "cuda" and dtype != torch.float32
        return replace(self._usual, dtype=dtype, vae_dtype=vae, channels_last=last)

    def directory(self, kind: Kind) -> Path:
        """Where a model's files are."""
        if self.is_rehearsal:
            tiny = self.scratch / kind
            build = build_tiny_xl if kind == "sdxl" else build_tiny_model
            return tiny if tiny.is_dir() else build(tiny)
        if kind == "bundled":
            emoji = BUILT_IN["emoji"]
            assert isinstance(emoji, LocalDirectory)
            return emoji.path
        return random_weights("small-sdxl" if kind == "sdxl" else "sd14")

    def load(self, kind: Kind, placement: Placement) -> LoadedModel:
        """A model, ready to render."""
        return ModelLoader(placement, cache=self.scratch).load(kind, LocalDirectory(self.directory(kind)))

    def unlike(self, model: LoadedModel, count: int, *, steps: int | None = None) -> list[Job]:
        """Jobs no two of which are alike, of 10 to 30 steps, or of so many each."""
        jobs = workloads.unlike(model, count, sampler=None, share=0.15 if self.is_rehearsal else 0.5)
        return [shortened(job, steps) for job in jobs] if steps else jobs


def shortened(job: Job, steps: int) -> Job:
    """The same job with so many steps; one that starts late has done half of them."""
    start = job.spec.start.model_copy(update={"step": steps // 2 if job.spec.start.step else 0})
    return replace(job, spec=job.spec.model_copy(update={"steps": steps, "start": start}))


def every_kind(model: LoadedModel, steps: int) -> list[Job]:
    """A job of every sampler, mode, loss and trace level, with masks and under adapters, by what it is."""
    picture = {"init": Path("picture.png"), "strength": 0.8}
    masked = {"mode": "img2img", **picture, "mask": Path("mask.png")}
    kinds: dict[str, dict[str, Any]] = {
        **{f"txt2img, {sampler}": {"sampler": sampler} for sampler in SAMPLERS},
        **{f"img2img, {sampler}": {"mode": "img2img", "sampler": sampler, **picture} for sampler in SAMPLERS},
        "mix": {"mode": "mix", "prompt": ("a cat", "an owl"), "mix": 0.5},
        "without guidance": {"guidance": 1.0},
        "with a negative prompt": {"negative": "blue"},
        **{
            f"guided, {loss.name}": {"mode": "guided", "losses": [{"name": loss.name, "scale": 10.0, "every": 2}]}
            for loss in load_losses().declarations
        },
        **{f"trace, {level}": {"trace": level} for level in TRACE_LEVELS if level != "none"},
        "masked": masked,
        "only what is masked": {**masked, "only_masked": 8},
    }
    usual = {"prompt": "a red apple", "seed": 7, "steps": steps}
    some = [workloads.job(model, name, {**usual, **fields}) for name, fields in kinds.items()]
    return [*some, *_adapted(model, workloads.job(model, "under adapters", usual))]


def _adapted(model: LoadedModel, job: Job) -> list[Job]:
    """The job under adapters of several kinds, each by what it is."""
    kinds: dict[str, dict[str, Any]] = {
        "attention's": {"unet": adapters.attention},
        "every layer's": {"text": adapters.everything},
        "a DoRA": {"unet": adapters.transformers, "magnitude": True},
    }
    made = {name: adapters.adapter(model, seed, **of) for seed, (name, of) in enumerate(kinds.items())}
    some = [replace(job, id=f"adapted, {name}", stack=(Use(one),)) for name, one in made.items()]
    return [*some, replace(job, id="adapted, two at once", stack=tuple(Use(one, 0.5) for one in [*made.values()][:2]))]


def requests(model: LoadedModel, jobs: Sequence[Job], **options: Any) -> list[RenderRequest]:
    """The jobs as the engine takes them."""
    return [
        RenderRequest(job.id, job.spec, model, picture=job.picture, mask=job.mask, stack=job.stack, **options)
        for job in jobs
    ]
