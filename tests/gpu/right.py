"""It is right: the CPU's numbers in float32, and in bfloat16 pictures no further from them than diffusers' own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future
from copy import deepcopy

import numpy as np
import torch
from diffusers.models.activations import GEGLU
from torch import Tensor, nn

from farm.jobs.spec import SAMPLERS, SamplerName
from tests.gpu.facts import Facts
from tests.gpu.subjects import Subjects, requests
from tests.gpu.works import engine
from worker.bench import workloads
from worker.bench.pipelines import Pipelines
from worker.bench.workloads import Job
from worker.diffusion.losses import load_losses
from worker.engine.preparing import prepare
from worker.engine.request import Pixels, RenderRequest
from worker.engine.rows import run_step
from worker.models.device import place
from worker.models.fused import fuse
from worker.models.model import LoadedModel

_TOLERANCE = 1e-3
"""Of the largest latent."""
_SHORT_OF = 1.0
"""Decibels by which the farm's pictures may be further from float32's than diffusers' are."""
_LONGEST = 300.0


def run(facts: Facts, subjects: Subjects) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    facts.attempt("float32", lambda: _float32(facts, subjects))
    facts.attempt("bfloat16", lambda: _bfloat16(facts, subjects), seconds=5)
    if not subjects.is_rehearsal:
        facts.attempt("fused layers", lambda: _fused_layers(facts, subjects.device))


def _float32(facts: Facts, subjects: Subjects) -> None:
    here = subjects.load("bundled", subjects.placement(torch.float32))
    on_cpu = subjects.load("bundled", place("cpu"))
    for sampler in SAMPLERS:
        one, other = (_latents(model, _one_job(model, subjects.steps, sampler)) for model in (here, on_cpu))
        error = float((one - other).abs().max() / other.abs().max())
        facts.check(f"float32 as on the CPU, {sampler}", error <= _TOLERANCE, error=error, at_most=_TOLERANCE)


@torch.no_grad()
def _fused_layers(facts: Facts, device: torch.device) -> None:
    """The farm's own layers, which keep channels_last, beside PyTorch's: how far both are from those of float64."""
    draw = torch.Generator().manual_seed(0)
    norms = (((3, 320, 64, 64), 32, 1), ((2, 48, 13, 17), 16, 50), ((5, 2560, 8, 8), 32, 0))
    layers: list[tuple[nn.Module, tuple[int, ...], float]] = [
        *((nn.GroupNorm(groups, shape[1]), shape, mean) for shape, groups, mean in norms),
        (GEGLU(320, 1280), (3, 4096, 320), 0),
        (GEGLU(48, 96), (2, 77, 48), 1),
        (nn.Conv2d(640, 320, 1), (3, 640, 32, 32), 0),
    ]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for layer, shape, mean in layers:
            x = (mean + torch.randn(shape, generator=draw)).to(device, dtype)
            x = x.to(memory_format=torch.channels_last) if x.dim() == 4 else x
            theirs, ours = (deepcopy(layer).to(device, dtype).requires_grad_(False) for _ in range(2))
            fuse(ours)
            truth = deepcopy(theirs).double()(x.double())
            errors = [float((each(x).double() - truth).norm() / truth.norm()) for each in (ours, theirs)]
            kept = type(ours) is not type(layer) and (x.dim() < 4 or _is_channels_last(ours(x)))
            name = f"{type(layer).__name__} of {'×'.join(map(str, shape))}, {str(dtype).removeprefix('torch.')}"
            facts.check(name, kept and errors[0] <= max(2 * errors[1], 2e-6), error=errors[0], pytorch=errors[1])


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def _one_job(model: LoadedModel, steps: int, sampler: SamplerName) -> Job:
    return workloads.alike(model, 1, steps=steps, sampler=sampler)[0]


def _latents(model: LoadedModel, job: Job) -> Tensor:
    """The last latents [4, h, w] of a job that is rendered alone, on the CPU."""
    state = prepare(RenderRequest(job.id, job.spec, model), load_losses(), 0, Future())
    while not state.is_done:
        step = run_step([state], padded_rows=None, gradient_chunk=1)
        state.commit(step.x[0], step.history[0], step.x0[0], step.losses[0])
    return state.x.float().cpu()


def _bfloat16(facts: Facts, subjects: Subjects) -> None:
    """How far pictures are from those of float32: the farm's, diffusers', and the farm's in company."""
    exact, rough = subjects.placement(torch.float32), subjects.placement(torch.bfloat16)
    model = subjects.load("bundled", rough)
    jobs = workloads.alike(model, 2 if subjects.is_rehearsal else 4, steps=2 * subjects.steps, sampler="euler")
    truth, ours = _rendered(subjects.load("bundled", exact), jobs), _rendered(model, jobs)
    directory = subjects.directory("bundled")
    theirs_exact, theirs = (_by_pipelines(Pipelines("bundled", directory, p), jobs) for p in (exact, rough))
    farm, diffusers = _decibels(truth, ours), _decibels(theirs_exact, theirs)
    facts.check(
        "bfloat16 as near to float32 as diffusers", farm >= diffusers - _SHORT_OF, farm=farm, diffusers=diffusers
    )
    company = _decibels(truth, _rendered(model, jobs, others=subjects.unlike(model, 8)))
    facts.check("bfloat16 in company as near as alone", company >= farm - _SHORT_OF, company=company, alone=farm)


def _rendered(model: LoadedModel, jobs: Sequence[Job], *, others: Sequence[Job] = ()) -> list[Pixels]:
    """The pictures of jobs, each rendered alone, or all of them at once with others."""
    with engine(16) as one:
        if not others:
            return [one.submit(request).result(_LONGEST).pixels for request in requests(model, jobs)]
        named = [Job(f"other {job.id}", job.spec, job.picture) for job in others]
        futures = [one.submit(request) for request in requests(model, [*jobs, *named])]
        return [future.result(_LONGEST).pixels for future in futures][: len(jobs)]


def _by_pipelines(pipelines: Pipelines, jobs: Sequence[Job]) -> list[Pixels]:
    served = pipelines.job_by_job(jobs, lambda: 0.0, memoised=True)
    return [one.pixels for one in served if one.pixels is not None]


def _decibels(truth: Sequence[Pixels], pictures: Sequence[Pixels]) -> float:
    """The peak signal-to-noise ratio over all pictures; 99 if they are equal."""
    error = np.mean((np.stack(truth).astype(float) - np.stack(pictures)) ** 2)
    return 99.0 if error == 0 else 10 * math.log10(255**2 / error)
