"""Latents equal diffusers' own pipelines: same weights, same seed, every sampler."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from farm.jobs.samplers import SAMPLERS, SamplerName, ScheduleName
from farm.jobs.start import start_step_of_strength
from tests.worker.diffusion.loop import SPACED, Job, distance, render, render_by_diffusers
from worker.models.model import LoadedModel

TOLERANCE = 1e-4

CASES = {
    "one step": {"steps": 1, "seed": 32},
    "two steps": {"steps": 2, "seed": 1, "negative": "blue"},
    "no guidance": {"steps": 5, "seed": 2, "guidance": 1.0},
    "weak guidance": {"steps": 4, "seed": 5, "guidance": 1.5},
    "wide": {"steps": 5, "seed": 3, "guidance": 4.0, "width": 96},
    "tall": {"steps": 3, "seed": 2**63 - 1, "negative": "a red otter", "height": 104},
}
"""Five steps reach the order of any sampler. How many more do, `test_solvers` asks without a model."""
STRENGTHS = (0.1, 0.3, 1.0)

# The farm's first samplers take every case. What the others have of their own is how they step, for which a few do.
# Nor does a model that predicts v take every case: it changes how a step reads the model.
FIRST: tuple[SamplerName, ...] = ("lms", "euler", "euler_a", "ddim", "dpmpp_2m")
OTHERS = [sampler for sampler in SAMPLERS if sampler not in FIRST]
CASES_OF_OTHERS = ("one step", "no guidance", "wide")
CASES_OF_V = ("one step", "weak guidance", "wide")
CASE_OF_V_OF_OTHERS = "weak guidance"
STRENGTH_OF_OTHERS = 0.3

# In mid-schedule diffusers takes LMS' order from the global step, and PNDM's timesteps from one too early: see
# `test_solvers`.
NOT_STARTED = ("lms", "pndm")

TXT2IMG = [
    *((one, case) for one in FIRST for case in CASES),
    *((one, case) for one in OTHERS for case in CASES_OF_OTHERS),
]
IMG2IMG = [
    (sampler, strength)
    for sampler in SAMPLERS
    if sampler not in NOT_STARTED
    for strength in (STRENGTHS if sampler in FIRST else (STRENGTH_OF_OTHERS,))
]
TXT2IMG_OF_V = [
    *((sampler, case) for sampler in FIRST for case in CASES_OF_V),
    *((sampler, CASE_OF_V_OF_OTHERS) for sampler in OTHERS),
]


of_epsilon = pytest.mark.parametrize("any_tiny_model", ["epsilon"], indirect=True)
of_v = pytest.mark.parametrize("any_tiny_model", ["v_prediction"], indirect=True)


@pytest.mark.long
@of_epsilon
@pytest.mark.parametrize(("sampler", "case"), TXT2IMG)
def test_txt2img(any_tiny_model: LoadedModel, sampler: SamplerName, case: str) -> None:
    job = Job(sampler, **CASES[case])  # type: ignore[arg-type]
    assert distance(render(any_tiny_model, job), render_by_diffusers(any_tiny_model, job)) < TOLERANCE


@pytest.mark.long
@of_epsilon
@pytest.mark.parametrize(("sampler", "strength"), IMG2IMG)
def test_img2img(any_tiny_model: LoadedModel, sampler: SamplerName, strength: float) -> None:
    job = Job(sampler, steps=10, seed=7, image=gradient_picture(), strength=strength)
    assert distance(render(any_tiny_model, job), render_by_diffusers(any_tiny_model, job)) < TOLERANCE


@pytest.mark.long
@of_v
@pytest.mark.parametrize(("sampler", "case"), TXT2IMG_OF_V)
def test_txt2img_of_v(any_tiny_model: LoadedModel, sampler: SamplerName, case: str) -> None:
    test_txt2img(any_tiny_model, sampler, case)


@pytest.mark.long
@of_v
@pytest.mark.parametrize("sampler", [sampler for sampler in SAMPLERS if sampler not in NOT_STARTED])
def test_img2img_of_v(any_tiny_model: LoadedModel, sampler: SamplerName) -> None:
    test_img2img(any_tiny_model, sampler, STRENGTH_OF_OTHERS)


@pytest.mark.long
@of_epsilon
@pytest.mark.parametrize(
    ("sampler", "schedule"), [("dpmpp_sde", "karras"), ("lms", "exponential"), ("heun", "beta"), ("unipc", "trailing")]
)
def test_a_schedule_is_diffusers(
    any_tiny_model: LoadedModel, tiny_xl: LoadedModel, sampler: SamplerName, schedule: ScheduleName
) -> None:
    """Of every sampler `test_solvers` asks it, without a model."""
    job = Job(sampler, steps=4, seed=4, guidance=2.0, schedule=schedule)
    for model in (any_tiny_model, tiny_xl):
        expected = render_by_diffusers(model, job, **SPACED[schedule])
        # so few steps may leave numbers of a hundred, of which float32 tells no more than this
        assert distance(render(model, job), expected) < max(TOLERANCE, 1e-5 * float(expected.abs().max()))


@of_epsilon
@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_eta_is_diffusers(any_tiny_model: LoadedModel, eta: float) -> None:
    job = Job("ddim", steps=4, seed=4, guidance=2.0, eta=eta)
    assert distance(render(any_tiny_model, job), render_by_diffusers(any_tiny_model, job)) < TOLERANCE


@of_epsilon
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(("sampler", "schedule"), [("lcm", "model"), ("euler", "trailing")])
def test_few_steps_without_guidance(
    any_tiny_model: LoadedModel, sampler: SamplerName, schedule: ScheduleName, steps: int
) -> None:
    """As models that were distilled want it."""
    job = Job(sampler, steps=steps, seed=4, guidance=1.0, schedule=schedule)
    expected = render_by_diffusers(any_tiny_model, job, **SPACED.get(schedule, {}))
    assert distance(render(any_tiny_model, job), expected) < TOLERANCE


def test_img2img_starts_at_the_step_that_the_client_announces() -> None:
    for steps in (1, 7, 30, 50):
        for strength in (1 / 3, 0.5, 0.75, 1.0):
            if int(steps * strength):
                assert Job("euler", steps, strength=strength).start == start_step_of_strength(strength, steps)


@pytest.mark.long
@pytest.mark.parametrize("sampler", ["lms", "euler_a"])
def test_seeds_negatives_and_guidance_matter(tiny_model: LoadedModel, sampler: SamplerName) -> None:
    job = Job(sampler, steps=2)
    picture = render(tiny_model, job)
    for other in (replace(job, seed=1), replace(job, negative="red"), replace(job, guidance=2.0)):
        assert distance(picture, render(tiny_model, other)) > 100 * TOLERANCE


def gradient_picture(width: int = 64, height: int = 64) -> Image.Image:
    across, down = np.linspace(0, 255, width), np.linspace(0, 255, height)
    red, green = np.meshgrid(across, down)
    pixels = np.stack([red, green, 255 - red], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))
