"""Fields by their names in a request, read from specs."""

from __future__ import annotations

from typing import Any

import pytest

from farm.errors import InvalidInput
from farm.jobs.fields import MODELS_OWN, NONE, called, differing, field_name, known, value
from farm.jobs.request import JobRequest
from farm.jobs.spec import InitReference, JobSpec

PICTURE = InitReference(sha256="0123456789abcdef" * 4, extension="png")


def spec(**fields: Any) -> JobSpec:
    (made,) = JobRequest.parse({"prompt": "an otter", "seed": 7, **fields}).specs(
        PICTURE if "init" in fields else None, default_model="emoji", mask=PICTURE if "mask" in fields else None
    )
    return made


FROM_A_PICTURE = {"mode": "img2img", "init": "a.png", "start_step": 12, "fit": "pad"}
MASKED = {"init": "a.png", "mask": "m.png", "redo": "black", "fill": "noise", "only_masked": 0}
GUIDED = {"mode": "guided", "losses": [{"name": "color", "arguments": {"red": 0.25}, "scale": 25, "every": 2}]}
MIX = {"mode": "mix", "prompt": ["a cat", "a dog"], "mix": 0.7}


@pytest.mark.parametrize(
    ("field", "fields", "said"),
    [
        ("prompt", {}, "an otter"),
        ("prompt", MIX, "a cat + a dog"),
        ("prompt.1", MIX, "a dog"),
        ("prompt.2", MIX, NONE),
        ("weights", MIX, "0.7 + 0.3"),
        ("weights.0", MIX, "0.7"),
        ("mix", MIX, "0.7"),
        ("mix", {}, "1"),
        ("negative", {"negative": "blurry"}, "blurry"),
        ("negative", {}, NONE),
        ("reading", {}, "weighted"),
        ("reading", {"reading": "plain"}, "plain"),
        ("clip_skip", {}, "1"),
        ("clip_skip", {"clip_skip": 2}, "2"),
        ("guidance", {"guidance": 7.5}, "7.5"),
        ("guidance", {"guidance": 0}, "0"),
        ("guidance", {}, MODELS_OWN),
        ("sampler", {}, "lms"),
        ("steps", {"steps": 1000}, "1000"),
        ("seed", {"seed": 2**53 + 1}, str(2**53 + 1)),
        ("start_step", FROM_A_PICTURE, "12"),
        ("start_step", {}, "0"),
        ("strength", FROM_A_PICTURE, "0.6"),
        ("strength", {}, NONE),
        ("init", FROM_A_PICTURE, "01234567"),
        ("init", {}, NONE),
        ("fit", FROM_A_PICTURE, "pad"),
        ("encode", FROM_A_PICTURE | {"encode": "mean"}, "mean"),
        ("mask", MASKED, "01234567"),
        ("mask", FROM_A_PICTURE, NONE),
        ("redo", MASKED, "black"),
        ("mask_blur", MASKED, "4"),
        ("mask_blur", FROM_A_PICTURE, NONE),
        ("fill", MASKED, "noise"),
        ("only_masked", MASKED, "0"),
        ("only_masked", FROM_A_PICTURE, NONE),
        ("outpaint", MASKED | {"outpaint": "top=3,left=8"}, "left=8,top=3"),
        ("outpaint", MASKED, NONE),
        ("width", {"width": 1024}, "1024"),
        ("height", {}, MODELS_OWN),
        ("original_size", {"original_size": " 4096 X 2048"}, "4096x2048"),
        ("original_size", {}, NONE),
        ("crop", {"crop": {"x": 128}}, "128,0"),
        ("target_size", {"target_size": {"width": 512, "height": 64}}, "512x64"),
        ("model", {"model": "mine"}, "mine"),
        ("mode", GUIDED, "guided"),
        ("losses", GUIDED, "color"),
        ("losses", {}, NONE),
        ("losses.0", GUIDED, NONE),
        ("losses.0.name", GUIDED, "color"),
        ("losses.0.scale", GUIDED, "25"),
        ("losses.0.scale", {"losses": [{"name": "blue"}]}, MODELS_OWN),
        ("losses.0.every", GUIDED, "2"),
        ("losses.0.arguments.red", GUIDED, "0.25"),
        ("losses.0.arguments.hue", GUIDED, NONE),
        ("losses.1.scale", GUIDED, NONE),
        ("losses.x.scale", GUIDED, NONE),
        ("trace", {"trace": "video", "trace_every": 3}, "video"),
        ("trace_every", {"trace_every": 3}, "3"),
        ("time_limit", {"time_limit": 60}, "60"),
        ("time_limit", {}, NONE),
        ("labels.take", {}, "one"),
        ("labels.grid.x", {}, "guidance=3"),
        ("labels.other", {}, NONE),
    ],
)
def test_a_field_is_read_as_it_was_asked_for(field: str, fields: dict[str, Any], said: str) -> None:
    assert value(spec(**fields), {"take": "one", "grid.x": "guidance=3"}, field) == said


@pytest.mark.parametrize("field", ["count", "priority", "mix_with.0.weight"])
def test_what_no_spec_keeps_is_refused(field: str) -> None:
    with pytest.raises(InvalidInput, match=rf"what a job had in '{field}' is not kept \(known: prompt, "):
        value(spec(), {}, field)


@pytest.mark.parametrize(
    ("written", "field"),
    [
        ("start-step", "start_step"),
        (" seed ", "seed"),
        ("loss-scale", "losses.0.scale"),
        ("loss.1.every", "losses.1.every"),
        ("losses.0.target", "losses.0.arguments.target"),
        ("losses.0.arguments.target", "losses.0.arguments.target"),
        ("labels.my-label", "labels.my-label"),
    ],
)
def test_a_field_may_be_written_as_its_option(written: str, field: str) -> None:
    assert field_name(written) == field


def test_a_mistyped_field_is_guessed() -> None:
    with pytest.raises(InvalidInput) as caught:
        field_name("samplr")
    assert (caught.value.message, caught.value.hint) == ("there is no field 'samplr'", "did you mean 'sampler'?")


def test_what_tells_jobs_apart_is_named() -> None:
    assert differing([spec(), spec()]) == []
    assert differing([spec(guidance=1), spec(guidance=3, seed=8)]) == ["guidance", "seed"]
    scaled = [spec(**GUIDED | {"losses": [{"name": "blue", "scale": scale, "every": 2}]}) for scale in (1, 200)]
    assert differing(scaled) == ["losses.0.scale"]
    assert differing([spec(**GUIDED), spec(**GUIDED | {"losses": []} | {"mode": "txt2img"})]) == ["mode", "losses"]
    assert set(known()) >= {"prompt", "guidance", "losses"}


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("guidance", "guidance"),
        ("start_step", "start step"),
        ("prompt", ""),
        ("prompt.1", ""),
        ("labels.my_label", "my_label"),
        ("losses", "losses"),
        ("losses.0.scale", "color scale"),
        ("losses.0.arguments.red", "color red"),
    ],
)
def test_a_heading_calls_a_field_by_words(field: str, name: str) -> None:
    assert called(field, [spec(**GUIDED), spec(**GUIDED)]) == name


def test_losses_that_are_unlike_have_no_name() -> None:
    others = [spec(**GUIDED), spec(losses=[{"name": "blue"}, {"name": "contrast"}])]
    assert [called(f"losses.{index}.scale", others) for index in range(2)] == ["loss scale", "loss 1 scale"]
