"""What the parts cost on this machine: forwards by rows, decodes, boarding, a tick's overhead, a pipeline's call."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from farm.jobs.spec import WeightedPrompt
from worker.bench import replay, workloads
from worker.bench.measure import metered, percentile, times
from worker.bench.pipelines import Pipelines
from worker.bench.replay import Arrival, Costs
from worker.diffusion import latents
from worker.diffusion.conditioning import Conditioning
from worker.diffusion.losses import Losses, load_losses
from worker.engine.preparing import prepare
from worker.engine.request import RenderRequest
from worker.engine.request_state import RequestState
from worker.engine.rows import run_step
from worker.models.model import LoadedModel

ROWS = (1, 2, 4, 8, 16, 32, 64)
LOADS = (0.5, 0.7, 0.9, 1.1)
ARRIVALS = 2_000
_SHORT, _LONG = 5, 15


@torch.no_grad()
def forward(model: LoadedModel, conditioning: Conditioning, rows: int) -> Tensor:
    """One forward of the UNet, all rows conditioned alike."""
    x = torch.zeros((rows, *model.row_shape), device=model.device)
    timesteps = torch.full((rows,), 500.0, device=model.device)
    return model.predict(x, timesteps, Conditioning.stacked([conditioning] * rows))


@torch.no_grad()
def decode(model: LoadedModel, count: int) -> Tensor:
    """Some pictures, decoded together."""
    return latents.decode(model.vae, torch.zeros((count, *model.latent_shape), device=model.device))


def measure(model: LoadedModel, pipelines: Pipelines, rows: int) -> Costs:
    """The costs of this machine now."""
    text = model.prompts.encode("")
    plain, conditioning = model.conditioned(text, cached=False), model.conditioned(text)
    losses = load_losses()
    numbers = itertools.count()
    short, long = (_pipeline_seconds(model, pipelines, steps) for steps in (_SHORT, _LONG))
    a_step = (long - short) / (_LONG - _SHORT)
    ticks = tuple((2 * jobs, overhead_of_a_tick(model, jobs=jobs)["seconds"]) for jobs in (1, max(1, rows // 2)))
    costs = Costs(
        forwards=_by_rows(lambda count: forward(model, conditioning, count), rows),
        plain_forwards=_by_rows(lambda count: pipelines.forward(plain, count), rows),
        ticks=ticks,
        board=statistics.median(times(lambda: _board_new(model, losses, next(numbers)), repeats=8)),
        decode=statistics.median(times(lambda: decode(model, 4), repeats=3)) / 4,
        call=max(0.0, short - _SHORT * a_step),
        step=0.0,
    )
    return replace(costs, step=max(0.0, a_step - costs.plain_forward(2)))


def _by_rows(call: Callable[[int], Any], most: int) -> tuple[tuple[int, float], ...]:
    """Seconds of a call by the number of rows that it is given."""
    sizes = [size for size in ROWS if size <= max(most, 2)]
    return tuple((size, statistics.median(times(partial(call, size), repeats=5))) for size in sizes)


def _pipeline_seconds(model: LoadedModel, pipelines: Pipelines, steps: int) -> float:
    jobs = workloads.alike(model, 1, steps=steps)
    return statistics.median(times(lambda: pipelines.job_by_job(jobs, time.monotonic, memoised=True), repeats=3))


def overhead_of_a_tick(model: LoadedModel, *, jobs: int, ticks: int = 12) -> dict[str, float]:
    """Seconds of a step of unlike jobs outside of the model's own kernels, and their share of the whole step."""
    together = _boarded(model, jobs, steps=ticks + 2)
    overheads, shares = [], []
    for _ in range(ticks):
        with metered(model) as meter:
            begun = time.perf_counter()
            step = run_step(together, padded_rows=None, gradient_chunk=4)
            torch.isfinite(step.x).flatten(1).all(dim=1).tolist()
            for index, state in enumerate(together):
                state.commit(step.x[index], step.history[index], step.x0[index], step.losses[index])
            whole = time.perf_counter() - begun
        overheads.append(whole - meter.seconds)
        shares.append((whole - meter.seconds) / whole)
    return {"jobs": len(together), "seconds": statistics.median(overheads), "share": statistics.median(shares)}


def _board_new(model: LoadedModel, losses: Losses, number: int) -> RequestState:
    """A job with a prompt that was not seen before."""
    job = workloads.alike(model, 1, steps=30)[0]
    new = job.spec.conditioning.model_copy(update={"prompts": (WeightedPrompt(text=f"otter number {number}"),)})
    request = RenderRequest(job.id, job.spec.model_copy(update={"conditioning": new}), model)
    return prepare(request, losses, 0, Future())


def _boarded(model: LoadedModel, count: int, *, steps: int) -> list[RequestState]:
    """Jobs from noise, of several samplers, ready for their first step."""
    jobs = [
        workloads.alike(model, count, steps=steps, sampler=sampler)[number]
        for number, sampler in zip(range(count), workloads.MIXED * count, strict=False)
    ]
    losses = load_losses()
    return [prepare(RenderRequest(job.id, job.spec, model), losses, n, Future()) for n, job in enumerate(jobs)]


def latencies(costs: Costs, *, rows: int, slots: int) -> dict[str, Any]:
    """Latencies under Poisson arrivals, by load: shares of what a pipeline finishes job by job, LMS memoised.

    Static batches are once what a pipeline could do if it took unlike jobs, and once run by the farm's own kernels.
    """
    capacity = replay.capacity(costs)
    own = replace(costs, plain_forwards=costs.forwards, step=costs.tick(2), call=costs.board + costs.decode)
    found: dict[str, Any] = {}
    for load in LOADS:
        arms: dict[str, Any] = {}
        runs: dict[str, Callable[[list[Arrival]], None]] = {
            "pipeline, job by job": lambda arrivals: replay.job_by_job(arrivals, costs),
            "pipeline, padded to the longest": lambda arrivals: replay.static(arrivals, costs, batch=rows // 2),
            "own kernels, padded to the longest": lambda arrivals: replay.static(arrivals, own, batch=rows // 2),
            "engine": lambda arrivals: replay.engine(arrivals, costs, rows=rows, slots=slots),
        }
        for arm, run in runs.items():
            arrivals = replay.poisson(ARRIVALS, load * capacity)
            run(arrivals)
            arms[arm] = _quantiles(arrivals)
        engine = arms["engine"]["p95"]
        found[f"{load:.0%}"] = {
            "arms": arms,
            "p95_ratios": {arm: engine / numbers["p95"] for arm, numbers in arms.items() if arm != "engine"},
        }
    return {"jobs": ARRIVALS, "capacity": capacity, "loads": found}


def _quantiles(arrivals: list[Arrival]) -> dict[str, float]:
    latency = [job.latency for job in arrivals]
    first = [job.first_preview for job in arrivals]
    return {
        **{f"p{round(100 * share)}": percentile(latency, share) for share in (0.5, 0.95, 0.99)},
        "first_preview_p50": percentile(first, 0.5),
        "first_preview_p95": percentile(first, 0.95),
    }


def described(costs: Costs) -> dict[str, Any]:
    """The costs as plain data."""
    by_rows = {
        name: {str(rows): s for rows, s in getattr(costs, name)} for name in ("forwards", "plain_forwards", "ticks")
    }
    return {**asdict(costs), **by_rows}
