"""Noise schedules: which timesteps and noise levels a sampler visits, read off diffusers' own scheduler classes.

Spacing of timesteps, Karras sigmas, offsets and final values are what diffusers makes of the model's
`scheduler_config.json`. Only the schedule is taken: the steps themselves are in `solvers`, and what differs between
samplers is in their records, in `samplers`.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast, get_args

import numpy as np

from farm.errors import FarmError, InvalidInput, ModelError
from farm.jobs import samplers as samplers_known
from farm.jobs.samplers import SAMPLERS, SamplerName, ScheduleName
from worker.diffusion import samplers
from worker.diffusion.levels import TooManySteps, products_of
from worker.diffusion.plans import plan
from worker.diffusion.samplers import Sampler
from worker.diffusion.steps import Prediction, Schedule

_TRIED_STEPS = (1, 2, 20, 30)


def read_schedule(
    config: Mapping[str, Any],
    sampler: SamplerName,
    steps: int,
    *,
    spacing: ScheduleName = "model",
    eta: float | None = None,
) -> Schedule:
    """The schedule of `steps` steps of `sampler` for a model with this `scheduler_config.json`. Memoised.

    `spacing` says how its noise levels are spaced, whatever the configuration says; `eta`, 0 to 1, how much noise its
    steps add (None: as the sampler does).
    Raises `ModelError` if the model is not trained on ε or v, or its configuration makes no schedule that can be
    followed as diffusers does, and `InvalidInput` if there are more steps than the model has distinct noise levels for,
    or the sampler has no such spacing or eta.
    """
    if (fault := samplers_known.fault(sampler, spacing, eta)) is not None:
        raise fault
    written = json.dumps({**config, **_SPACED[spacing]}, sort_keys=True)
    return _read(written, samplers.BY_NAME[sampler], steps, spacing, samplers_known.eta_of(sampler, eta))


_UNSPACED = {
    **dict.fromkeys(("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"), False),
}
_SPACED: Mapping[ScheduleName, Mapping[str, Any]] = {
    "model": {},
    "karras": {**_UNSPACED, "use_karras_sigmas": True},
    "exponential": {**_UNSPACED, "use_exponential_sigmas": True},
    "beta": {**_UNSPACED, "use_beta_sigmas": True},
    "sgm_uniform": {**_UNSPACED, "timestep_spacing": "linspace"},
    "trailing": {**_UNSPACED, "timestep_spacing": "trailing"},
}
"""What the model's configuration says instead."""


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
def _read(config: str, sampler: Sampler, steps: int, spacing: ScheduleName, eta: float) -> Schedule:
    """What is wrong in a configuration can come up anywhere in diffusers, as errors of all kinds."""
    try:
        with np.errstate(all="ignore"):
            return _followed(config, sampler, steps, spacing, eta)
    except FarmError:
        raise
    except TooManySteps as error:
        raise too_many(steps, sampler.name) from error
    except Exception as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"the model's scheduler_config.json makes no schedule for '{sampler.name}': {said}") from error


def _followed(config: str, sampler: Sampler, steps: int, spacing: ScheduleName, eta: float) -> Schedule:
    shortened = spacing == "sgm_uniform" and sampler.counts_to_zero
    scheduler = _scheduler(config, sampler, steps + 1 if shortened else steps, respaced=spacing != "model")
    levels = sampler.levels(scheduler)
    if shortened:
        levels = levels.without_the_last_but_one()
    schedule = Schedule(
        sampler=sampler.name,
        solver=sampler.solver,
        prediction=_prediction(scheduler),
        timesteps=levels.timesteps,
        alpha=levels.alpha,
        sigma=levels.sigma,
        alpha_next=levels.alpha_next,
        sigma_next=levels.sigma_next,
        init_scale=float(scheduler.init_noise_sigma),
        products=products_of(scheduler),
        eta=eta,
        end_orders=sampler.end_orders(scheduler.config, steps),
        spacing=spacing if spacing == "sgm_uniform" else _spacing(scheduler),
    )
    _check(schedule, steps)
    if not np.isfinite(plan(schedule).table).all():
        raise ValueError("its steps are not finite numbers")
    return schedule


@lru_cache(maxsize=64)
def _fresh(written: str, sampler: Sampler, *, respaced: bool = False) -> Any:
    """diffusers' scheduler without timesteps. To construct one takes as long as a step: it lists those of training."""
    config = json.loads(written)
    if config.get("use_flow_sigmas") or "FlowMatch" in str(config.get("_class_name")):
        raise ModelError("the model is trained by flow matching", hint="use a model of Stable Diffusion 1, 2 or XL")
    betas, levels = config.get("trained_betas"), config.get("num_train_timesteps", 1_000)
    if betas is not None and len(betas) != levels:
        raise ModelError(
            f"the model's scheduler_config.json has {len(betas):,} trained_betas for {levels:,} noise levels"
        )
    for key, values in sampler.refused.items():
        if config.get(key) in values:
            raise ModelError(
                f"the model's scheduler_config.json asks '{sampler.name}' for {key}: {json.dumps(config[key])}",
                hint="Stable Diffusion's latents must not have it; another sampler does not know of it",
            )
    made_by = sampler.respaced if respaced and sampler.respaced else sampler.scheduler
    scheduler = made_by.from_config(config, **sampler.settings)
    if not sampler.knows_zero_snr and config.get("rescale_betas_zero_snr"):
        # It would begin with noise that the model never saw.
        scheduler.alphas_cumprod = _fresh(written, samplers.EULER).alphas_cumprod
    return scheduler


def _scheduler(config: str, sampler: Sampler, steps: int, *, respaced: bool) -> Any:
    """diffusers' scheduler with its timesteps set."""
    scheduler = copy.copy(_fresh(config, sampler, respaced=respaced))
    trained_on = int(scheduler.config.num_train_timesteps)
    if not 1 <= steps <= trained_on:
        raise InvalidInput(
            f"{steps} is not between 1 and the {trained_on} steps that the model was trained on", field="steps"
        )
    distilled_to = scheduler.config.get("original_inference_steps") if sampler is samplers.LCM else None
    if distilled_to is not None and steps > distilled_to:
        raise InvalidInput(
            f"{steps} is more than the {distilled_to} steps that a model of '{sampler.name}' is distilled from",
            field="steps",
            hint="4 to 8 are usual",
        )
    scheduler.set_timesteps(steps)
    return scheduler


def _prediction(scheduler: Any) -> Prediction:
    prediction = scheduler.config.prediction_type
    if prediction not in get_args(Prediction):
        raise ModelError(
            f"the model predicts '{prediction}'", hint=f"supported predictions: {', '.join(get_args(Prediction))}"
        )
    return cast(Prediction, prediction)


def _spacing(scheduler: Any) -> str:
    """How noise levels are spaced, by what the class reads of its configuration: it keeps what it does not read too."""
    read = inspect.signature(type(scheduler).__init__).parameters
    for spacing in ("karras", "exponential", "beta"):
        if f"use_{spacing}_sigmas" in read and scheduler.config.get(f"use_{spacing}_sigmas"):
            return spacing
    return str(scheduler.config.get("timestep_spacing", "linspace"))


def too_many(steps: int, sampler: str) -> InvalidInput:
    """That a schedule has not so many levels."""
    return InvalidInput(
        f"'{sampler}' does not have {steps} distinct noise levels on this model's schedule",
        field="steps",
        hint="use fewer steps",
    )


def _check(schedule: Schedule, steps: int) -> None:
    """Refuse what no solver can step along: missing or repeated noise levels, or ε read off no signal at all."""
    levels = np.concatenate([schedule.sigma, schedule.sigma_next, schedule.alpha, schedule.alpha_next])
    if not np.isfinite([*levels, *schedule.timesteps, schedule.init_scale]).all() or np.any(schedule.sigma <= 0):
        raise ModelError(f"the model's scheduler_config.json makes no noise levels for '{schedule.sampler}'")
    if schedule.steps != steps or np.any(np.diff(schedule.sigma_ve) >= 0):
        raise too_many(steps, schedule.sampler)
    if schedule.prediction == "epsilon" and np.any(schedule.alpha == 0.0):
        raise ModelError("the model predicts ε from pure noise", hint="zero terminal SNR needs v-prediction")
