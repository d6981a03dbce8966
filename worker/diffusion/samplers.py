"""What the samplers do, one record each. What they are called is in `farm.jobs.samplers`.

To add one is an entry here, one there, and its solver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from farm.jobs.samplers import SamplerName
from worker.diffusion import multistep, solvers, stochastic, twice
from worker.diffusion.levels import (
    LevelsOf,
    chained,
    doubled,
    doubled_to_whole,
    exploding,
    preserving,
    strided,
    strided_after_a_second_look,
)
from worker.diffusion.steps import Solver

EndOrders = Callable[[Mapping[str, Any], int], tuple[int, ...]]
"""`Schedule.end_orders`, by what a class was told and the number of steps."""


def _no_end(_config: Mapping[str, Any], _steps: int) -> tuple[int, ...]:
    return ()


def _end_of_dpm_solver(config: Mapping[str, Any], steps: int) -> tuple[int, ...]:
    few = config["lower_order_final"] and steps < 15
    if few:
        return 1, 2
    return (1,) if config["euler_at_final"] or config["final_sigmas_type"] == "zero" else ()


def _end_of_deis(config: Mapping[str, Any], steps: int) -> tuple[int, ...]:
    return (1, 2) if config["lower_order_final"] and steps < 15 else ()


def _end_of_unipc(config: Mapping[str, Any], _steps: int) -> tuple[int, ...]:
    return (1, 2) if config["lower_order_final"] else ()


@dataclass(frozen=True, eq=False)
class Sampler:
    """How a sampler's steps are made. Compared by identity."""

    name: SamplerName
    scheduler: Any
    """The class of diffusers' whose timesteps and noise levels it visits."""
    levels: LevelsOf
    """How those levels are read."""
    solver: Solver
    history: int = 0
    """How many older predictions a step may use, up to `steps.HISTORY`."""
    draws_noise: bool = False
    """Whether steps of its own eta add fresh noise."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the class is told, whatever the model's configuration says."""
    refused: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """What no linear combination does, by key of a model's configuration: values that ask the class for it."""
    knows_zero_snr: bool = True
    """Whether the class knows of models whose signal ends at zero."""
    respaced: Any = None
    """The class that spaces its levels where a job says how, if its own cannot."""
    counts_to_zero: bool = False
    """Whether the last of the class's timesteps is 0 where they are spaced evenly; else it is a step away from it."""
    end_orders: EndOrders = _no_end
    """By what order its last steps are taken."""


_NO_THRESHOLDING: Mapping[str, tuple[Any, ...]] = {"thresholding": (True,)}
_DPM_SOLVER: Mapping[str, Any] = {"solver_order": 2, "solver_type": "midpoint"}
_OF_DPM_SOLVER: Mapping[str, tuple[Any, ...]] = {
    **_NO_THRESHOLDING,
    "variance_type": ("learned", "learned_range"),
}
_UNCLIPPED: Mapping[str, Any] = {"clip_sample": False}  # as diffusers' pipelines of Stable Diffusion do

LMS = Sampler("lms", LMSDiscreteScheduler, exploding, solvers.lms, history=3, knows_zero_snr=False, counts_to_zero=True)
EULER = Sampler("euler", EulerDiscreteScheduler, exploding, solvers.euler, counts_to_zero=True)
EULER_A = Sampler(
    "euler_a",
    EulerAncestralDiscreteScheduler,
    exploding,
    solvers.euler_ancestral,
    draws_noise=True,
    respaced=EulerDiscreteScheduler,
    counts_to_zero=True,
)
DDIM = Sampler("ddim", DDIMScheduler, strided, solvers.ddim, settings=_UNCLIPPED, refused=_NO_THRESHOLDING)
DPMPP_2M = Sampler(
    "dpmpp_2m",
    DPMSolverMultistepScheduler,
    preserving,
    solvers.dpmpp_2m,
    history=1,
    settings={**_DPM_SOLVER, "algorithm_type": "dpmsolver++"},
    refused=_OF_DPM_SOLVER,
    end_orders=_end_of_dpm_solver,
)
HEUN = Sampler(
    "heun",
    HeunDiscreteScheduler,
    doubled,
    twice.heun,
    history=1,
    settings=_UNCLIPPED,
    knows_zero_snr=False,
    counts_to_zero=True,
)
# Heun's class has the levels of the next three as well. Their own take a second to make, or a library for their noise.
DPM2 = Sampler(
    "dpm2", HeunDiscreteScheduler, doubled_to_whole, twice.dpm2, history=1, knows_zero_snr=False, counts_to_zero=True
)
DPM2_A = Sampler(
    "dpm2_a",
    HeunDiscreteScheduler,
    doubled_to_whole,
    twice.dpm2_ancestral,
    history=1,
    draws_noise=True,
    knows_zero_snr=False,
    counts_to_zero=True,
)
DPMPP_SDE = Sampler(
    "dpmpp_sde",
    HeunDiscreteScheduler,
    doubled,
    twice.dpmpp_sde,
    history=1,
    draws_noise=True,
    knows_zero_snr=False,
    counts_to_zero=True,
)
DPMPP_2M_SDE = Sampler(
    "dpmpp_2m_sde",
    DPMSolverMultistepScheduler,
    preserving,
    stochastic.dpmpp_2m_sde,
    history=1,
    draws_noise=True,
    settings={**_DPM_SOLVER, "algorithm_type": "sde-dpmsolver++"},
    refused=_OF_DPM_SOLVER,
    end_orders=_end_of_dpm_solver,
)
DPMPP_3M_SDE = Sampler(
    "dpmpp_3m_sde",
    DPMSolverMultistepScheduler,
    preserving,
    stochastic.dpmpp_3m_sde,
    history=2,
    draws_noise=True,
    settings={"solver_order": 3, "solver_type": "heun", "algorithm_type": "sde-dpmsolver++"},
    refused=_OF_DPM_SOLVER,
    end_orders=_end_of_dpm_solver,
)
UNIPC = Sampler(
    "unipc",
    UniPCMultistepScheduler,
    preserving,
    multistep.unipc,
    history=2,
    settings={"solver_order": 2, "solver_type": "bh2", "predict_x0": True, "disable_corrector": [], "solver_p": None},
    refused=_NO_THRESHOLDING,
    end_orders=_end_of_unipc,
)
DEIS = Sampler(
    "deis",
    DEISMultistepScheduler,
    preserving,
    multistep.deis,
    history=1,
    settings={"solver_order": 2, "solver_type": "logrho", "algorithm_type": "deis"},
    refused=_NO_THRESHOLDING,
    knows_zero_snr=False,
    end_orders=_end_of_deis,
)
PNDM = Sampler(
    "pndm",
    PNDMScheduler,
    strided_after_a_second_look,
    multistep.pndm,
    history=3,
    settings={"skip_prk_steps": True},  # as every published model of Stable Diffusion says
    knows_zero_snr=False,
)
DDPM = Sampler(
    "ddpm",
    DDPMScheduler,
    chained,
    solvers.ddim,  # with eta 1
    draws_noise=True,
    settings={**_UNCLIPPED, "variance_type": "fixed_small"},
    refused=_NO_THRESHOLDING,
)
LCM = Sampler(
    "lcm",
    LCMScheduler,
    chained,
    stochastic.lcm,
    draws_noise=True,
    settings={**_UNCLIPPED, "timestep_scaling": 10.0},
    refused=_NO_THRESHOLDING,
)

_ALL = (
    *(LMS, EULER, EULER_A, DDIM, DPMPP_2M, HEUN, DPM2, DPM2_A),
    *(DPMPP_SDE, DPMPP_2M_SDE, DPMPP_3M_SDE, UNIPC, DEIS, PNDM, DDPM, LCM),
)
BY_NAME: Mapping[SamplerName, Sampler] = {sampler.name: sampler for sampler in _ALL}
