"""Noise schedules: which timesteps and noise levels a sampler visits, read off diffusers' own scheduler classes.

Spacing of timesteps, Karras sigmas, offsets and final values are what diffusers makes of the model's
`scheduler_config.json`. Only the schedule is taken: the steps themselves are in `solvers`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast, get_args

import numpy as np
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LMSDiscreteScheduler,
)

from farm.errors import FarmError, InvalidInput, ModelError
from farm.jobs.spec import SAMPLERS, SamplerName
from worker.diffusion.solvers import Floats, Prediction, Schedule, plan

_CLASSES: dict[SamplerName, Any] = {
    "lms": LMSDiscreteScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_a": EulerAncestralDiscreteScheduler,
    "ddim": DDIMScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
}

_OVERRIDES: dict[SamplerName, dict[str, Any]] = {
    "ddim": {"clip_sample": False},  # as diffusers' pipelines of Stable Diffusion do
    "dpmpp_2m": {
        "algorithm_type": "dpmsolver++",
        "solver_order": 2,
        "solver_type": "midpoint",
    },
}

_NONLINEAR: dict[SamplerName, dict[str, tuple[Any, ...]]] = {
    "ddim": {"thresholding": (True,)},
    "dpmpp_2m": {"thresholding": (True,), "variance_type": ("learned", "learned_range")},
}
"""What diffusers' classes do besides linear combinations, where a model's configuration asks for it."""

_TRIED_STEPS = (1, 2, 20, 30)


def read_schedule(config: Mapping[str, Any], sampler: SamplerName, steps: int) -> Schedule:
    """The schedule of `steps` steps of `sampler` for a model with this `scheduler_config.json`. Memoised.

    Raises `ModelError` if the model is not trained on ε or v, or its configuration makes no schedule that can be
    followed as diffusers does, and `InvalidInput` if there are more steps than the model has distinct noise levels for.
    """
    return _read(json.dumps(dict(config), sort_keys=True), sampler, steps)


def unusable(config: Mapping[str, Any]) -> dict[SamplerName, FarmError]:
    """The samplers that cannot follow the schedule of a model with this `scheduler_config.json`, and why not."""
    found: dict[SamplerName, FarmError] = {}
    for sampler in SAMPLERS:
        errors: list[FarmError] = []
        for steps in _TRIED_STEPS:
            try:
                read_schedule(config, sampler, steps)
            except (ModelError, InvalidInput) as error:
                errors.append(error)
        if len(errors) == len(_TRIED_STEPS):
            found[sampler] = next((error for error in errors if isinstance(error, ModelError)), errors[0])
    return found


@lru_cache(maxsize=256)
def _read(config: str, sampler: SamplerName, steps: int) -> Schedule:
    """What a configuration says in a wrong way comes up anywhere in diffusers, as errors of all kinds."""
    try:
        with np.errstate(all="ignore"):
            return _followed(config, sampler, steps)
    except FarmError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"the model's scheduler_config.json makes no schedule for '{sampler}': {said}") from error


def _followed(config: str, sampler: SamplerName, steps: int) -> Schedule:
    scheduler = _scheduler(config, sampler, steps)
    timesteps = _float64(scheduler.timesteps)
    if sampler == "ddim":
        alpha, sigma, alpha_next, sigma_next = _ddim_levels(scheduler, timesteps)
    else:
        alpha, sigma, alpha_next, sigma_next = _sigma_levels(scheduler, preserving=sampler == "dpmpp_2m")
    schedule = Schedule(
        sampler=sampler,
        prediction=_prediction(scheduler),
        timesteps=timesteps,
        alpha=alpha,
        sigma=sigma,
        alpha_next=alpha_next,
        sigma_next=sigma_next,
        init_scale=float(scheduler.init_noise_sigma),
        first_order_end=sampler == "dpmpp_2m" and _first_order_end(scheduler, steps),
    )
    _check(schedule, steps)
    if not np.isfinite(plan(schedule).table).all():
        raise ValueError("its steps are no finite numbers")
    return schedule


@lru_cache(maxsize=64)
def _fresh(written: str, sampler: SamplerName) -> Any:
    """diffusers' scheduler without timesteps. To construct one takes as long as a step: it lists those of training."""
    config = json.loads(written)
    if config.get("use_flow_sigmas") or "FlowMatch" in str(config.get("_class_name")):
        raise ModelError("the model is trained by flow matching", hint="use a model of Stable Diffusion 1 or 2")
    betas, levels = config.get("trained_betas"), config.get("num_train_timesteps", 1_000)
    if betas is not None and len(betas) != levels:
        raise ModelError(
            f"the model's scheduler_config.json has {len(betas):,} trained_betas for {levels:,} noise levels"
        )
    for key, values in _NONLINEAR.get(sampler, {}).items():
        if config.get(key) in values:
            raise ModelError(
                f"the model's scheduler_config.json asks '{sampler}' for {key}: {json.dumps(config[key])}",
                hint="latents of Stable Diffusion must not have it; another sampler does not know of it",
            )
    scheduler = _CLASSES[sampler].from_config(config, **_OVERRIDES.get(sampler, {}))
    if sampler == "lms" and config.get("rescale_betas_zero_snr"):
        # diffusers' LMS knows nothing of it, and would begin with noise that the model never saw.
        scheduler.alphas_cumprod = _fresh(written, "euler").alphas_cumprod
    return scheduler


def _scheduler(config: str, sampler: SamplerName, steps: int) -> Any:
    """diffusers' scheduler with its timesteps set."""
    scheduler = copy.copy(_fresh(config, sampler))
    trained_on = int(scheduler.config.num_train_timesteps)
    if not 1 <= steps <= trained_on:
        raise InvalidInput(f"{steps} is not within 1 and the {trained_on} steps of the model", field="steps")
    scheduler.set_timesteps(steps)
    return scheduler


def _prediction(scheduler: Any) -> Prediction:
    prediction = scheduler.config.prediction_type
    if prediction not in get_args(Prediction):
        raise ModelError(
            f"the model predicts '{prediction}'", hint=f"supported predictions: {', '.join(get_args(Prediction))}"
        )
    return cast(Prediction, prediction)


def _sigma_levels(scheduler: Any, *, preserving: bool) -> tuple[Floats, Floats, Floats, Floats]:
    """Levels of the classes that list their VE sigmas, the final one included; some list more than they step along."""
    sigmas = _float64(scheduler.sigmas)[: len(scheduler.timesteps) + 1]
    alpha = 1 / np.sqrt(sigmas**2 + 1) if preserving else np.ones_like(sigmas)
    sigma = sigmas * alpha
    return alpha[:-1], sigma[:-1], alpha[1:], sigma[1:]


def _ddim_levels(scheduler: Any, timesteps: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """DDIM steps by a fixed stride of training timesteps, which need not end at the schedule's next timestep."""
    products = _float64(scheduler.alphas_cumprod)
    here = timesteps.astype(np.int64)
    there = here - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    if here.min() < 0:
        raise ValueError("it has timesteps before the first")
    if here.max() >= len(products):
        raise _too_many(len(timesteps), "ddim")
    product = products[here]
    product_next = np.where(there >= 0, products[np.maximum(there, 0)], float(scheduler.final_alpha_cumprod))
    return np.sqrt(product), np.sqrt(1 - product), np.sqrt(product_next), np.sqrt(1 - product_next)


def _first_order_end(scheduler: Any, steps: int) -> bool:
    config = scheduler.config
    return bool(
        config.euler_at_final or (config.lower_order_final and steps < 15) or config.final_sigmas_type == "zero"
    )


def _check(schedule: Schedule, steps: int) -> None:
    """Refuse what no solver can step along: missing or repeated noise levels, or ε read off no signal at all."""
    levels = np.concatenate([schedule.sigma, schedule.sigma_next, schedule.alpha, schedule.alpha_next])
    if not np.isfinite([*levels, *schedule.timesteps, schedule.init_scale]).all() or np.any(schedule.sigma <= 0):
        raise ModelError(f"the model's scheduler_config.json makes no noise levels for '{schedule.sampler}'")
    if schedule.steps != steps or np.any(np.diff(schedule.sigma_ve) >= 0):
        raise _too_many(steps, schedule.sampler)
    if schedule.prediction == "epsilon" and np.any(schedule.alpha == 0.0):
        raise ModelError("the model predicts ε from pure noise", hint="zero terminal SNR needs v-prediction")


def _too_many(steps: int, sampler: SamplerName) -> InvalidInput:
    return InvalidInput(
        f"'{sampler}' has no {steps} distinct noise levels on this model's schedule",
        field="steps",
        hint="use fewer steps",
    )


def _float64(values: Any) -> Floats:
    return np.asarray(values, dtype=np.float64)
