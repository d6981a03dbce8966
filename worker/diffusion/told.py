"""A schedule's numbers as a value that can be sent: what `farm schedule` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from farm.jobs.samplers import SamplerName, ScheduleName
from farm.jobs.schedule import Evaluation, Level, ScheduleTold
from worker.diffusion.plans import Coefficient, SamplingPlan, plan
from worker.diffusion.schedules import read_schedule
from worker.diffusion.steps import Schedule


def schedule_told(
    config: Mapping[str, Any],
    sampler: SamplerName,
    steps: int,
    *,
    schedule: ScheduleName = "model",
    eta: float | None = None,
    start_step: int = 0,
) -> ScheduleTold:
    """What a job visits that samples a model with this `scheduler_config.json`.

    Raises `ModelError` and `InvalidInput` as `read_schedule` and `plan` do.
    """
    read = read_schedule(config, sampler, steps, spacing=schedule, eta=eta)
    done = plan(read, start_step)
    return ScheduleTold(
        sampler=sampler,
        schedule=schedule,
        spacing=read.spacing,
        eta=read.eta,
        prediction=read.prediction,
        steps=steps,
        start_step=start_step,
        init_scale=read.init_scale,
        levels=_levels(read),
        evaluations=_evaluations(done),
    )


def _levels(schedule: Schedule) -> tuple[Level, ...]:
    sigma, sigma_next = schedule.sigma_ve, schedule.sigma_next / schedule.alpha_next
    return tuple(
        Level(step=step, timestep=timestep, sigma=here, alpha=1 / np.hypot(1, here), sigma_next=there)
        for step, (timestep, here, there) in enumerate(
            zip(schedule.timesteps.tolist(), sigma.tolist(), sigma_next.tolist(), strict=True)
        )
    )


def _evaluations(done: SamplingPlan) -> tuple[Evaluation, ...]:
    which = [(done.start + k, turn) for k, number in enumerate(done.evaluations) for turn in range(1, number + 1)]
    return tuple(
        Evaluation(
            step=step,
            evaluation=turn,
            coefficients={name.name.lower(): float(row[name]) for name in Coefficient},
        )
        for (step, turn), row in zip(which, done.table, strict=True)
    )
