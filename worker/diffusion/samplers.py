"""The samplers, one record each: to add one is an entry here, its name in `farm.jobs.spec`, and its solver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LMSDiscreteScheduler,
)

from farm.jobs.spec import SamplerName
from worker.diffusion import solvers
from worker.diffusion.levels import LevelsOf, exploding, preserving, strided
from worker.diffusion.solvers import Solver


@dataclass(frozen=True, eq=False)
class Sampler:
    """All that the farm knows of a sampler. Compared by identity."""

    name: SamplerName
    title: str
    """As A1111 calls it, and tools that read its text in a picture."""
    scheduler: Any
    """The class of diffusers' whose timesteps and noise levels it visits."""
    levels: LevelsOf
    """How those levels are read."""
    solver: Solver
    history: int = 0
    """How many older predictions a step may use, up to `solvers.HISTORY`."""
    draws_noise: bool = False
    """Whether steps add fresh noise."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the class is told, whatever the model's configuration says."""
    refused: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """What no linear combination does, by key of a model's configuration: values that ask the class for it."""
    knows_zero_snr: bool = True
    """Whether the class knows of models whose signal ends at zero."""


LMS = Sampler("lms", "LMS", LMSDiscreteScheduler, exploding, solvers.lms, history=3, knows_zero_snr=False)
EULER = Sampler("euler", "Euler", EulerDiscreteScheduler, exploding, solvers.euler)
EULER_A = Sampler(
    "euler_a",
    "Euler a",
    EulerAncestralDiscreteScheduler,
    exploding,
    solvers.euler_ancestral,
    draws_noise=True,
)
DDIM = Sampler(
    "ddim",
    "DDIM",
    DDIMScheduler,
    strided,
    solvers.ddim,
    settings={"clip_sample": False},  # as diffusers' pipelines of Stable Diffusion do
    refused={"thresholding": (True,)},
)
DPMPP_2M = Sampler(
    "dpmpp_2m",
    "DPM++ 2M",
    DPMSolverMultistepScheduler,
    preserving,
    solvers.dpmpp_2m,
    history=1,
    settings={"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"},
    refused={"thresholding": (True,), "variance_type": ("learned", "learned_range")},
)

BY_NAME: Mapping[SamplerName, Sampler] = {sampler.name: sampler for sampler in (LMS, EULER, EULER_A, DDIM, DPMPP_2M)}
