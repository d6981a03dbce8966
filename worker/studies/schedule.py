"""The study of a schedule: the noise levels that a sampler visits for a model, step by step."""

from __future__ import annotations

from farm.jobs.answers import Schedule
from worker.diffusion.told import schedule_told
from worker.studies.study import Answered, Asked, Compute


def schedule(asked: Asked, _: Compute) -> Answered:
    """What the spec's sampler does in its steps; nothing is computed with the model."""
    spec = asked.spec
    config = asked.model.scheduler_config
    return Answered(
        Schedule(value=schedule_told(config, spec.sampler, spec.steps, schedule=spec.schedule, eta=spec.eta))
    )
