"""A spec that leaves nothing to the model: it says so by its type, and is the same bytes wherever specs are kept."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from farm.bucket.results import IMAGE, JobResult, ModelUsed, ResultObject
from farm.errors import InvalidInput
from farm.jobs.request import JobRequest
from farm.jobs.spec import Corner, InitReference, JobSpec, PixelSize, ResolvedSpec

JOB = "0kz3mw7c9d2f4g5h-0003"


def spec_of(**fields: Any) -> JobSpec:
    picture = InitReference(sha256="0" * 64, extension="png", width=300, height=200)
    return JobRequest.parse({"prompt": "a cat", "seed": 1, **fields}).specs(picture, default_model="emoji")[0]


SPECS = {
    "of few words": spec_of(),
    "of many": spec_of(
        mode="img2img",
        init=Path("a.png"),
        strength=0.5,
        fit="pad",
        negative="a dog",
        sampler="dpmpp_2m",
        losses=[{"name": "blue", "scale": 20, "every": 2}],
        trace="frames",
        time_limit=60,
    ),
    "of a size": spec_of(width=64, guidance=1),
    "of a frame": spec_of(original_size="4096x4096", crop="8,0"),
}


@pytest.mark.parametrize("name", SPECS)
def test_its_bytes_are_those_of_a_spec_of_the_same_values(name: str) -> None:
    spec = SPECS[name]
    guidance = spec.guidance.model_copy(update={"scale": 7.5})
    filled_in = spec.model_copy(update={"width": 128, "height": 64, "guidance": guidance})

    resolved = ResolvedSpec.of(spec, width=128, height=64, scale=7.5)

    assert resolved.to_json() == filled_in.to_json()
    assert result_of(resolved).to_json() == result_of(filled_in).to_json()
    assert ResolvedSpec.from_json(resolved.to_json()) == resolved
    assert JobSpec.from_json(resolved.to_json()) == filled_in


def test_its_bytes_are_what_they_always_were() -> None:
    assert ResolvedSpec.of(spec_of(reading="plain"), width=128, height=64, scale=7.5).to_json() == (
        '{"mode":"txt2img","model":"emoji","conditioning":{"prompts":[{"text":"a cat","weight":1.0}],"negative":""},'
        '"start":{"image":null,"step":0,"fit":"crop"},"guidance":{"scale":7.5,"losses":[]},"sampler":"lms","steps":30,'
        '"seed":1,"width":128,"height":64,"trace":{"level":"none","every":1},"time_limit":null}'
    )


def test_what_a_job_says_of_its_frame_goes_before_what_the_model_says() -> None:
    own: dict[str, PixelSize | Corner] = {"original_size": PixelSize(width=4096, height=2048), "crop": Corner(x=5)}
    spec = ResolvedSpec.of(spec_of(crop="0,0"), width=128, height=64, scale=7.5, framing=own)
    assert spec.framing == {**own, "crop": Corner()}
    assert ResolvedSpec.of(spec_of(), width=128, height=64, scale=7.5).framing == {}
    assert '"time_limit":null,"original_size":{"width":4096,"height":2048},"crop":{"x":0,"y":0}}' in spec.to_json()


@pytest.mark.parametrize(
    ("size", "scale", "field"),
    [((60, 64), 7.5, "width"), ((64, 4_096), 7.5, "height"), ((64, 64), -101.0, "scale")],
)
def test_what_no_job_may_have_is_refused(size: tuple[int, int], scale: float, field: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{field}: "):
        ResolvedSpec.of(spec_of(), width=size[0], height=size[1], scale=scale)


@pytest.mark.parametrize("left_open", ["width", "height", "guidance"])
def test_a_spec_that_leaves_something_open_is_none(left_open: str) -> None:
    fields: dict[str, Any] = {"width": 64, "height": 64, "guidance": 7.5, left_open: None}
    with pytest.raises(InvalidInput, match=left_open):
        ResolvedSpec.from_json(spec_of(**fields).to_json())


def result_of(spec: JobSpec) -> JobResult:
    image = ResultObject(key=f"jobs/{JOB}/1/{IMAGE}", sha256="0" * 64, size=1, content_type="image/png")
    return JobResult(
        job=JOB,
        batch=JOB.partition("-")[0],
        attempt=1,
        worker="w",
        spec=spec,
        objects={IMAGE: image},
        model=ModelUsed(name="emoji", source="here", revision=None),
        device="cpu",
        dtype="float32",
        timings={},
        versions={},
        warnings=(),
        finished=datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_a_loss_without_a_scale_has_the_models_own() -> None:
    spec = spec_of(mode="guided", losses=[{"name": "blue"}, {"name": "contrast", "scale": 3}])
    assert [term.scale for term in spec.guidance.losses] == [None, 3]

    resolved = ResolvedSpec.of(spec, width=64, height=64, scale=7.5, loss_scales={"blue": 100.0, "contrast": 100.0})
    assert [term.scale for term in resolved.guidance.losses] == [100.0, 3]
    with pytest.raises(InvalidInput, match="scale"):
        ResolvedSpec.of(spec, width=64, height=64, scale=7.5)


def test_how_a_picture_is_encoded_is_said_if_it_is_not_as_always() -> None:
    picture = {"mode": "img2img", "init": "a.png"}
    image = InitReference(sha256="0" * 64, extension="png")
    mean, sample = (
        JobRequest.parse({"prompt": "a cat", "seed": 1, **picture, "encode": encode}).specs(image, default_model="m")[0]
        for encode in ("mean", "sample")
    )

    assert '"encode":"mean"' in mean.to_json() and "encode" not in sample.to_json()
    assert [JobSpec.from_json(spec.to_json()) for spec in (mean, sample)] == [mean, sample]


def test_a_spec_that_does_not_say_how_its_prompts_are_read_is_of_before_there_was_a_choice() -> None:
    old = JobSpec.from_json(spec_of(reading="plain").to_json())
    assert (old.conditioning.reading, old.conditioning.clip_skip) == ("plain", 1)

    new = spec_of(clip_skip=2)
    assert '"negative":"","reading":"weighted","clip_skip":2}' in new.to_json()
    assert JobSpec.from_json(new.to_json()) == new
