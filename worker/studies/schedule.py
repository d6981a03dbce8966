"""The study of a schedule: the noise levels that a sampler visits for a model, step by step."""

from __future__ import annotations

from pydantic import JsonValue

from farm.jobs.answers import Schedule
from farm.jobs.spec import ResolvedSpec
from worker.diffusion.schedules import read_schedule
from worker.models.model import LoadedModel
from worker.studies.study import Answered, Asked, Compute


def schedule(asked: Asked, _: Compute) -> Answered:
    """What `told` says of the spec's sampler and steps; nothing is computed with the model."""
    return Answered(Schedule(value=told(asked.model, asked.spec)))


def told(model: LoadedModel, spec: ResolvedSpec) -> dict[str, JsonValue]:
    """Timesteps, and at each step α and σ of x = α·x₀ + σ·ε and σ/α. Raises `ModelError`, `InvalidInput`."""
    found = read_schedule(model.scheduler_config, spec.sampler, spec.steps)
    return {
        "sampler": found.sampler,
        "spacing": found.spacing,
        "prediction": found.prediction,
        "init_scale": found.init_scale,
        "timesteps": found.timesteps.tolist(),
        "alphas": found.alpha.tolist(),
        "sigmas": found.sigma.tolist(),
        "levels": found.sigma_ve.tolist(),
    }
