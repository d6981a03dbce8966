"""Requests for studies and their specs: what each kind reads, and what it cannot have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from farm.errors import InvalidInput, ObjectDamaged
from farm.jobs.answers import Similar, read_answer
from farm.jobs.describe import describe
from farm.jobs.request import JobRequest
from farm.jobs.spec import STUDIES, InitReference, JobSpec, ResolvedSpec
from farm.jobs.studies import READ_BY, STUDY_PRIORITY

PICTURE = InitReference(sha256="0" * 64, extension="png")
ASKED: dict[str, dict[str, Any]] = {
    "tokens": {"prompt": "a cat"},
    "similar": {"prompt": ["a cat", "an otter"]},
    "roundtrip": {"init": b"picture", "noise_steps": [4, 10], "steps": 15, "encode": "mean", "seed": 7},
    "schedule": {"sampler": "euler", "steps": 15},
}


def spec_of(mode: str, **changes: Any) -> JobSpec:
    request = JobRequest.parse({"mode": mode, **ASKED[mode], **changes})
    return request.specs(PICTURE if request.init else None, default_model="emoji")[0]


@pytest.mark.parametrize("mode", STUDIES)
def test_a_study_goes_first_and_takes_no_step(mode: str) -> None:
    spec = spec_of(mode)
    assert JobRequest.parse({"mode": mode, **ASKED[mode]}).priority == STUDY_PRIORITY == 9
    assert JobRequest.parse({"mode": mode, **ASKED[mode], "priority": 2}).priority == 2
    assert (spec.is_study, spec.steps_to_do, spec.has_picture) == (True, 1, mode == "roundtrip")
    assert JobSpec.from_json(spec.to_json()) == spec
    resolved = ResolvedSpec.of(spec, width=64, height=64, scale=7.5)
    assert ResolvedSpec.from_json(resolved.to_json()) == resolved
    assert set(STUDIES) == set(READ_BY)


def test_a_study_is_described_by_what_it_asks() -> None:
    assert {mode: describe(spec_of(mode)) for mode in STUDIES} == {
        "roundtrip": "roundtrip · mean · noise of steps 4, 10 of 15 · lms · seed 7",
        "tokens": "tokens",
        "similar": "similar",
        "schedule": "schedule · 15 steps · euler",
    }
    assert describe(spec_of("roundtrip", noise_steps=[])) == "roundtrip · mean · seed 7"
    assert {mode: spec_of(mode).prompt for mode in STUDIES} == {
        "roundtrip": "(roundtrip)",
        "tokens": "a cat",
        "similar": "a cat | an otter",
        "schedule": "(schedule)",
    }


def test_specs_of_pictures_are_what_earlier_versions_read() -> None:
    spec = json.loads(JobRequest(prompt="a cat", seed=1).specs(None, default_model="emoji")[0].to_json())
    assert "noise_steps" not in spec and "path" not in spec["conditioning"]
    assert spec.keys() == {
        *("mode", "model", "conditioning", "start", "guidance", "sampler"),
        *("steps", "seed", "width", "height", "trace", "time_limit"),
    }


@pytest.mark.parametrize(
    ("mode", "changes", "said"),
    [
        ("tokens", {"guidance": 3}, "tokens has no use for 'guidance'"),
        ("tokens", {"negative": "rain"}, "tokens has no use for 'negative'"),
        ("tokens", {"init": b"picture"}, "tokens has no use for 'init'"),
        ("tokens", {"prompt": ["a", "b"]}, "tokens is of one prompt, not of 2"),
        ("tokens", {"steps": 7}, "tokens has no use for 'steps'"),
        ("similar", {"prompt": "a cat"}, "similar compares two prompts or more"),
        ("roundtrip", {"prompt": "a cat"}, "roundtrip has no use for 'prompt'"),
        ("roundtrip", {"start_step": 3}, "roundtrip has no use for 'start_step'"),
        ("roundtrip", {"init": None}, "roundtrip needs a picture: give --init FILE"),
        ("roundtrip", {"noise_steps": [15]}, "the noise step 15 is not one of the 15 steps, 0 to 14"),
        ("roundtrip", {"noise_steps": [-1]}, "noise_steps.0: -1: input should be greater than or equal to 0"),
        ("roundtrip", {"noise_steps": [1] * 17}, "noise_steps: there are more than 16"),
        ("roundtrip", {"noise_steps": [True]}, "noise_steps: true is neither a number nor text"),
        ("schedule", {"steps": 1_001}, "steps: 1001: input should be less than or equal to 1000"),
    ],
)
def test_what_a_study_cannot_have_is_told(mode: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as told:
        spec_of(mode, **changes)
    assert said in told.value.message


def test_what_is_of_studies_is_not_of_pictures() -> None:
    with pytest.raises(InvalidInput, match=r"noise steps are of a roundtrip, not of txt2img"):
        JobRequest.parse({"prompt": "a cat", "noise_steps": [1]})
    with pytest.raises(InvalidInput, match=r"prompt: field required"):
        JobRequest.parse({"mode": "txt2img"})


def test_fields_that_say_nothing_new_do_no_harm() -> None:
    """Defaults of a batch file are those of every job in it."""
    assert spec_of("tokens", guidance=None, negative="", losses=[], labels={"a": "b"}, sampler="lms").mode == "tokens"


@pytest.mark.parametrize(
    ("mode", "forged", "said"),
    [
        ("tokens", {"start": {"image": {"sha256": "0" * 64, "extension": "png"}}}, "tokens has no init image"),
        ("tokens", {"guidance": {"losses": [{"name": "blue"}]}}, "tokens takes no step"),
        ("tokens", {"trace": {"level": "video"}}, "tokens takes no step"),
        ("tokens", {"noise_steps": [0]}, "noise steps are of a roundtrip, not of tokens"),
        ("similar", {"conditioning": {"prompts": [{"text": "a"}]}}, "similar compares two prompts or more"),
        ("roundtrip", {"start": {}}, "roundtrip needs an init image"),
        ("roundtrip", {"noise_steps": [15]}, "the noise step 15 is not one of the 15 steps"),
        ("roundtrip", {"conditioning": {"prompts": [{"text": ""}] * 2}}, "roundtrip is of one prompt, not of 2"),
        ("schedule", {"mode": "attention"}, "mode: 'attention': input should be"),
        ("schedule", {"conditioning": {"prompts": [{"text": "a"}], "path": "spherical"}}, "goes between two prompts"),
    ],
)
def test_forged_specs_are_refused(mode: str, forged: dict[str, Any], said: str) -> None:
    document = {**json.loads(spec_of(mode).to_json()), **forged}
    with pytest.raises(InvalidInput) as told:
        JobSpec.from_json(json.dumps(document))
    assert said in told.value.message


def test_answers_are_bounded() -> None:
    with pytest.raises(ObjectDamaged, match=r"x does not answer 'similar' as this version reads it: the cosines are"):
        read_answer(b'{"study": "similar", "prompts": ["a"], "cosines": [[1, 0]], "cut": [[]]}', "similar", key="x")
    with pytest.raises(ObjectDamaged, match="does not answer 'similar'"):
        read_answer(b'{"study": "similar", "prompts": ["a"], "cosines": [[NaN]], "cut": [[]]}', "similar", key="x")
    newer = b'{"study": "similar", "prompts": ["a"], "cosines": [[1]], "cut": [[]], "more": 1}'
    assert read_answer(newer, "similar", key="x") == Similar(prompts=("a",), cosines=((1.0,),), cut=((),))


def test_a_noise_step_is_decoded_once() -> None:
    assert spec_of("roundtrip", noise_steps=[10, 4, 10]).noise_steps == (10, 4)
