"""The noise levels of a schedule, read off diffusers' scheduler: where each step begins and where it ends.

A step goes from x = alpha·x₀ + sigma·ε to the level alpha_next, sigma_next, in the space that its sampler works in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.diffusion.steps import Floats


class Levels(NamedTuple):
    """Each [steps]."""

    timesteps: Floats
    alpha: Floats
    sigma: Floats
    alpha_next: Floats
    sigma_next: Floats

    def without_the_last_but_one(self) -> Levels:
        """The same with one step less, whose last goes to where these end: down to 0 but never from there."""
        kept = (values[:-1] for values in self[:3])
        ends = (np.append(values[:-2], values[-1]) for values in self[3:])
        return Levels(*kept, *ends)


LevelsOf = Callable[[Any], Levels]
"""Reads the levels off a scheduler of diffusers whose timesteps are set."""


class TooManySteps(Exception):
    """The schedule has not so many levels."""


def exploding(scheduler: Any) -> Levels:
    """Of a class that lists its sigmas, the final one included, as it lists them: α is one."""
    timesteps = as_floats(scheduler.timesteps)
    return _of_exploding(timesteps, _listed(scheduler, len(timesteps)))


def doubled(scheduler: Any) -> Levels:
    """Of a class that evaluates the model twice a step, and lists for both: α is one."""
    timesteps = as_floats(scheduler.timesteps)[::2]
    return _of_exploding(timesteps, np.append(as_floats(scheduler.sigmas)[: 2 * len(timesteps) - 1 : 2], 0.0))


def doubled_to_whole(scheduler: Any) -> Levels:
    """The same as the classes of DPM2 have it, which round the timesteps of Karras' levels."""
    levels = doubled(scheduler)
    return levels._replace(timesteps=levels.timesteps.round()) if scheduler.config.use_karras_sigmas else levels


def preserving(scheduler: Any) -> Levels:
    """Of a class that lists its sigmas, in variance-preserving space: α² + σ² is one."""
    timesteps = as_floats(scheduler.timesteps)
    listed = _listed(scheduler, len(timesteps))
    alpha = 1 / np.sqrt(listed**2 + 1)
    return _from_each_to_the_next(timesteps, alpha, listed * alpha)


def strided(scheduler: Any) -> Levels:
    """Of DDIM, by a fixed stride of training timesteps, which need not end at the schedule's next timestep."""
    return _strided(scheduler, as_floats(scheduler.timesteps))


def strided_after_a_second_look(scheduler: Any) -> Levels:
    """Of PNDM, which goes as DDIM does, and lists its second timestep twice."""
    return _strided(scheduler, np.delete(as_floats(scheduler.timesteps), slice(1, 2)))


def chained(scheduler: Any) -> Levels:
    """Of a class that goes from each of its timesteps to the next, and from the last to no noise at all."""
    timesteps = as_floats(scheduler.timesteps)
    product = _products_at(scheduler, timesteps.astype(np.int64))
    return _from_each_to_the_next(
        timesteps, np.append(np.sqrt(product), 1.0), np.append(np.sqrt(np.maximum(1 - product, 0.0)), 0.0)
    )


def products_of(scheduler: Any) -> Floats:
    """ᾱ of every timestep that the model was trained on."""
    return as_floats(scheduler.alphas_cumprod)


def as_floats(values: Any) -> Floats:
    """What diffusers keeps as a tensor of some precision or as an array, in float64."""
    return np.asarray(values, dtype=np.float64)


def _strided(scheduler: Any, timesteps: Floats) -> Levels:
    here = timesteps.astype(np.int64)
    there = here - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    product = _products_at(scheduler, here)
    product_next = np.where(
        there >= 0, products_of(scheduler)[np.maximum(there, 0)], float(scheduler.final_alpha_cumprod)
    )
    return Levels(timesteps, np.sqrt(product), np.sqrt(1 - product), np.sqrt(product_next), np.sqrt(1 - product_next))


def _products_at(scheduler: Any, timesteps: NDArray[np.int64]) -> Floats:
    products = products_of(scheduler)
    if timesteps.min() < 0:
        raise ValueError("it has timesteps before the first")
    if timesteps.max() >= len(products):
        raise TooManySteps
    return products[timesteps]


def _listed(scheduler: Any, steps: int) -> Floats:
    """The sigmas that a class steps along; some list more."""
    return as_floats(scheduler.sigmas)[: steps + 1]


def _of_exploding(timesteps: Floats, sigma: Floats) -> Levels:
    return _from_each_to_the_next(timesteps, np.ones_like(sigma), sigma)


def _from_each_to_the_next(timesteps: Floats, alpha: Floats, sigma: Floats) -> Levels:
    return Levels(timesteps, alpha[:-1], sigma[:-1], alpha[1:], sigma[1:])
