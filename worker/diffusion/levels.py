"""The noise levels of a schedule, read off diffusers' scheduler: where each step begins and where it ends.

A step goes from x = alpha·x₀ + sigma·ε to the level alpha_next, sigma_next, in the space that its sampler works in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from farm.errors import InvalidInput
from worker.diffusion.solvers import Floats


class Levels(NamedTuple):
    """Each [steps]."""

    alpha: Floats
    sigma: Floats
    alpha_next: Floats
    sigma_next: Floats


LevelsOf = Callable[[Any], Levels]
"""Reads the levels off a scheduler of diffusers whose timesteps are set."""


def exploding(scheduler: Any) -> Levels:
    """Of a class that lists its sigmas, the final one included, as it lists them: α is one."""
    sigma = _listed(scheduler)
    return _from_each_to_the_next(np.ones_like(sigma), sigma)


def preserving(scheduler: Any) -> Levels:
    """Of a class that lists its sigmas, in variance-preserving space: α² + σ² is one."""
    listed = _listed(scheduler)
    alpha = 1 / np.sqrt(listed**2 + 1)
    return _from_each_to_the_next(alpha, listed * alpha)


def strided(scheduler: Any) -> Levels:
    """Of DDIM, by a fixed stride of training timesteps, which need not end at the schedule's next timestep."""
    products = as_floats(scheduler.alphas_cumprod)
    here = as_floats(scheduler.timesteps).astype(np.int64)
    there = here - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    if here.min() < 0:
        raise ValueError("it has timesteps before the first")
    if here.max() >= len(products):
        raise too_many(len(here), "ddim")
    product = products[here]
    product_next = np.where(there >= 0, products[np.maximum(there, 0)], float(scheduler.final_alpha_cumprod))
    return Levels(np.sqrt(product), np.sqrt(1 - product), np.sqrt(product_next), np.sqrt(1 - product_next))


def too_many(steps: int, sampler: str) -> InvalidInput:
    """That a schedule has not so many levels."""
    return InvalidInput(
        f"'{sampler}' does not have {steps} distinct noise levels on this model's schedule",
        field="steps",
        hint="use fewer steps",
    )


def as_floats(values: Any) -> Floats:
    """What diffusers keeps as a tensor of some precision or as an array, in float64."""
    return np.asarray(values, dtype=np.float64)


def _listed(scheduler: Any) -> Floats:
    """The sigmas that a class steps along; some list more."""
    return as_floats(scheduler.sigmas)[: len(scheduler.timesteps) + 1]


def _from_each_to_the_next(alpha: Floats, sigma: Floats) -> Levels:
    return Levels(alpha[:-1], sigma[:-1], alpha[1:], sigma[1:])
