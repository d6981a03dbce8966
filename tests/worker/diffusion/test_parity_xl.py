"""Latents of SDXL's family equal diffusers' own pipelines: two text encoders, the whole prompt, and the sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from farm.jobs.spec import SAMPLERS, SamplerName
from tests.tiny import build_tiny_xl
from tests.worker.diffusion.conftest import load
from tests.worker.diffusion.loop import Job, distance, render, render_by_diffusers
from tests.worker.diffusion.test_parity import FIRST, NOT_STARTED, OTHERS, TOLERANCE, gradient_picture
from worker.families.family import Frame, Size
from worker.families.sdxl import SDXL
from worker.models.model import LoadedModel

CASES = {
    "two steps": {"steps": 2, "seed": 1, "negative": "blue"},
    "an empty negative prompt": {"steps": 3, "seed": 4},
    "no guidance": {"steps": 5, "seed": 2, "guidance": 1.0},
    "wide": {"steps": 5, "seed": 3, "guidance": 4.0, "width": 96, "negative": "a red otter"},
    "tall": {"steps": 3, "seed": 2**63 - 1, "height": 104},
}
CASE_OF_OTHERS = "wide"


@pytest.mark.long
@pytest.mark.parametrize(
    ("sampler", "case"),
    [*((one, case) for one in FIRST for case in CASES), *((one, CASE_OF_OTHERS) for one in OTHERS)],
)
def test_txt2img(tiny_xl: LoadedModel, sampler: SamplerName, case: str) -> None:
    job = Job(sampler, **CASES[case])  # type: ignore[arg-type]
    assert distance(render(tiny_xl, job), render_by_diffusers(tiny_xl, job)) < TOLERANCE


@pytest.mark.parametrize("sampler", ["euler", "euler_a", "ddim", "dpmpp_2m"])
def test_img2img(tiny_xl: LoadedModel, sampler: SamplerName) -> None:
    job = Job(sampler, steps=6, seed=7, image=gradient_picture(), strength=0.5, negative="blue")
    assert distance(render(tiny_xl, job), render_by_diffusers(tiny_xl, job)) < TOLERANCE


FRAMES = {
    "a small original": Frame(Size(32, 24), Size(64, 64)),
    "a large original": Frame(Size(4_096, 2_048), Size(64, 64)),
    "cut off on the left": Frame(Size(64, 64), Size(64, 64), left=40),
    "cut off above": Frame(Size(64, 64), Size(64, 64), top=40),
    "cut to another size": Frame(Size(64, 64), Size(96, 128)),
    "all of it": Frame(Size(1_536, 640), Size(1_024, 512), left=256, top=16),
}


@pytest.mark.long
@pytest.mark.parametrize("frame", FRAMES)
def test_it_is_told_how_the_picture_was_framed(tiny_xl: LoadedModel, frame: str) -> None:
    job = Job("euler", steps=3, seed=5, negative="blue", frame=FRAMES[frame])
    picture = render(tiny_xl, job)
    assert distance(picture, render_by_diffusers(tiny_xl, job)) < TOLERANCE
    assert distance(picture, render(tiny_xl, replace(job, frame=None))) > TOLERANCE, "and that matters"
    job = replace(job, steps=6, image=gradient_picture(), strength=0.5)
    assert distance(render(tiny_xl, job), render_by_diffusers(tiny_xl, job)) < TOLERANCE


@pytest.fixture(scope="module")
def xl_of_v(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model that predicts v and reads an empty negative prompt."""
    folder = tmp_path_factory.mktemp("v")
    return load(build_tiny_xl(folder, prediction_type="v_prediction", zeros_for_nothing=False))


@pytest.mark.long
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_model_that_predicts_v_and_reads_an_empty_negative_prompt(xl_of_v: LoadedModel, sampler: SamplerName) -> None:
    job = Job(sampler, steps=4, seed=3, guidance=3.0)
    assert distance(render(xl_of_v, job), render_by_diffusers(xl_of_v, job)) < TOLERANCE
    if sampler not in NOT_STARTED:
        job = replace(job, image=gradient_picture(), strength=0.5)
        assert distance(render(xl_of_v, job), render_by_diffusers(xl_of_v, job)) < TOLERANCE


def test_the_size_and_the_negative_prompt_matter(tiny_xl: LoadedModel) -> None:
    job = Job("euler", steps=3)
    picture = render(tiny_xl, job)
    assert distance(picture, render(tiny_xl, replace(job, negative="red"))) > 100 * TOLERANCE
    prompt = tiny_xl.prompts.encode("a cat")
    assert tiny_xl.conditioned(prompt).tensors[2].tolist() == [[64, 64, 0, 0, 64, 64]]


@pytest.mark.long
def test_it_is_told_by_what_its_unet_asks_for(tiny_xl: LoadedModel, tiny_model: LoadedModel) -> None:
    assert tiny_xl.family is SDXL
    assert tiny_model.family is not SDXL
