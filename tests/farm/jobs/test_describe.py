"""What is said of a spec in captions and by `farm status`."""

from __future__ import annotations

from typing import Any

import pytest

from farm.jobs.describe import common, describe, shared_prompt
from farm.jobs.request import JobRequest
from farm.jobs.spec import InitReference, JobSpec

PICTURE = InitReference(sha256="0" * 64, extension="png")


def spec(**fields: Any) -> JobSpec:
    asked = JobRequest.parse({"prompt": "an otter", "seed": 7, **fields})
    (made,) = asked.specs(PICTURE, default_model="emoji", mask=PICTURE if asked.mask else None)
    return made


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "txt2img · seed 7 · 30 steps · lms"),
        ({"steps": 1, "sampler": "ddim"}, "txt2img · seed 7 · 1 step · ddim"),
        ({"guidance": 7.5}, "txt2img · seed 7 · 30 steps · lms · guidance 7.5"),
        ({"guidance": -0.5}, "txt2img · seed 7 · 30 steps · lms · guidance -0.5"),
        (
            {"original_size": "4096x2048", "crop": "128,0", "target_size": "64x96", "loras": [{"name": "detail"}]},
            "txt2img · seed 7 · 30 steps · lms · original 4096x2048 · crop 128,0 · target 64x96 · lora detail 1",
        ),
        (
            {"mode": "img2img", "init": "a.png", "mask": "m.png", "strength": 1},
            "img2img · seed 7 · 30 steps · lms · mask 00000000",
        ),
        (
            {"init": "a.png", "mask": "m.png", "redo": "black", "mask_blur": 9, "fill": "noise", "only_masked": 32},
            "txt2img · seed 7 · 30 steps from step 8 · lms"
            " · mask 00000000 inverted · blur 9 · fill noise · only masked, padding 32",
        ),
        (
            {"mode": "img2img", "init": "a.png", "outpaint": "left=8,top=16", "strength": 1},
            "img2img · seed 7 · 30 steps · lms · outpaint left=8,top=16",
        ),
        (
            {"mode": "img2img", "init": "a.png", "outpaint": "top=16", "mask_blur": 4, "fill": "noise", "strength": 1},
            "img2img · seed 7 · 30 steps · lms · outpaint top=16 · blur 4 · fill noise",
        ),
        (
            {"mode": "img2img", "init": "a.png", "start_step": 12},
            "img2img · seed 7 · 30 steps from step 12 · lms",
        ),
        ({"mode": "img2img", "init": "a.png", "start_step": 0}, "img2img · seed 7 · 30 steps · lms"),
        (
            {"mode": "mix", "prompt": ["a", "b", "c"], "weights": [1, 1, 1]},
            "mix · shares 0.333 + 0.333 + 0.333 · seed 7 · 30 steps · lms",
        ),
        (
            {"mode": "mix", "prompt": ["a", "b"], "mix": 0.25, "path": "spherical"},
            "mix · shares 0.25 + 0.75 along the arc · seed 7 · 30 steps · lms",
        ),
        (
            {"mix_with": [{"prompt": "b", "weight": 0.3}]},
            "txt2img · shares 0.7 + 0.3 · seed 7 · 30 steps · lms",
        ),
        (
            {"mode": "guided", "losses": [{"name": "blue", "scale": 25}, {"name": "contrast"}]},
            "guided · seed 7 · 30 steps · lms · blue x25 · contrast",
        ),
    ],
)
def test_whatever_tells_one_job_from_another_is_said(fields: dict[str, Any], said: str) -> None:
    assert describe(spec(**fields)) == said


def test_what_jobs_have_in_common_is_said_once() -> None:
    jobs = [describe(spec(guidance=scale, sampler=sampler)) for scale in (1, 3) for sampler in ("lms", "euler")]
    assert common(jobs) == "txt2img · seed 7 · 30 steps"
    assert common(jobs[:1]) == "txt2img · seed 7 · 30 steps · lms · guidance 1"


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        (["an otter", "an otter"], "an otter"),
        (["a red apple on blue", "a red rose on blue", "a red car on blue"], "a red … on blue"),
        (["a cat", "a cat asleep"], "a cat …"),
        (["a a", "a a a"], "a a …"),
        (["a car", "a cat"], "a …"),
        (["cat", "dog"], ""),
        (["a cat at sea", "dog at sea"], "… at sea"),
        (["", "x"], ""),
    ],
)
def test_what_prompts_share_is_said(prompts: list[str], said: str) -> None:
    assert shared_prompt(spec(prompt=prompt) for prompt in prompts) == said
