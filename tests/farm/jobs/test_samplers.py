"""Samplers and schedules go by every name that people know; what is stored is the farm's own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from farm.errors import InvalidInput
from farm.jobs.describe import describe
from farm.jobs.fields import value
from farm.jobs.request import JobRequest
from farm.jobs.samplers import KNOWN, SAMPLERS, SCHEDULE_TITLES, SCHEDULES, read_sampler, read_schedule_name
from farm.jobs.spec import JobSpec

NAMES = {
    "Euler a": ("euler_a", None),
    "EULER": ("euler", None),
    " lms ": ("lms", None),
    "k_euler_a": ("euler_a", None),
    "k_euler_ancestral": ("euler_a", None),
    "euler_ancestral": ("euler_a", None),
    "sample_heun": ("heun", None),
    "DPM++ 2M": ("dpmpp_2m", None),
    "DPM++ 2M Karras": ("dpmpp_2m", "karras"),
    "dpmpp_2m_sde_gpu": ("dpmpp_2m_sde", None),
    "dpmpp_2m_sde_gpu_karras": ("dpmpp_2m_sde", "karras"),
    "k_dpmpp_sde_gpu_ka": ("dpmpp_sde", "karras"),
    "DPM++ 2M SDE Exponential": ("dpmpp_2m_sde", "exponential"),
    "DPM++ 3M SDE Karras": ("dpmpp_3m_sde", "karras"),
    "DPM++ SDE": ("dpmpp_sde", None),
    "k_dpmpp_2m_ka": ("dpmpp_2m", "karras"),
    "dpm_2": ("dpm2", None),
    "dpm-2-ancestral": ("dpm2_a", None),
    "DPM2 a Karras": ("dpm2_a", "karras"),
    "uni_pc": ("unipc", None),
    "PLMS": ("pndm", None),
    "LMS SGM Uniform": ("lms", "sgm_uniform"),
    "DEIS beta": ("deis", "beta"),
}


@pytest.mark.parametrize("text", NAMES)
def test_other_tools_names_are_read(text: str) -> None:
    assert read_sampler(text) == NAMES[text]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_samplers_own_name_and_its_title_are_read(name: str) -> None:
    [known] = [known for known in KNOWN.values() if known.name == name]
    assert read_sampler(name) == read_sampler(known.title) == (name, None)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedules_own_name_and_its_title_are_read(name: str) -> None:
    [title] = [title for schedule, title in SCHEDULE_TITLES.items() if schedule == name]
    assert read_schedule_name(name) == read_schedule_name(title.upper()) == name


@pytest.mark.parametrize("text", ["", "karras", "DPM++", "DPM++ 2M SDE Heun", "dpm_fast", "k_"])
def test_a_name_of_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="there is no sampler") as caught:
        read_sampler(text)
    assert caught.value.field == "sampler"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (
            "euler normal",
            "'euler' is one; what may follow are schedules: model, karras, exponential, beta, sgm_uniform, ",
        ),
        ("DPM++ 2M Simple", "'dpmpp_2m' is one; "),
        ("DPM++ 2S a", "known: lms, "),
        ("eulr", "did you mean 'euler'?"),
    ],
)
def test_a_hint_leads_to_no_sampler_that_makes_other_pictures(text: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_sampler(text)
    assert str(caught.value.hint).startswith(hint)
    with pytest.raises(InvalidInput, match="'model' is the model's own"):
        read_schedule_name("Normal")


def spec_of(**fields: Any) -> JobSpec:
    return JobRequest.parse({"prompt": "a cat", "seed": 1, **fields}).specs(None, default_model="emoji")[0]


def test_a_request_says_what_the_name_says() -> None:
    spec = spec_of(sampler="DPM++ 2M SDE Karras", eta=0.5)
    assert (spec.sampler, spec.schedule, spec.eta) == ("dpmpp_2m_sde", "karras", 0.5)
    assert spec == spec_of(sampler="dpmpp_2m_sde", schedule="Karras", eta=0.5)
    assert spec == spec_of(sampler="DPM++ 2M SDE Karras", schedule="karras", eta=0.5)
    assert describe(spec).endswith("30 steps · dpmpp_2m_sde karras eta 0.5")
    assert [value(spec, {}, field) for field in ("sampler", "schedule", "eta")] == ["dpmpp_2m_sde", "karras", "0.5"]
    assert [value(spec_of(), {}, field) for field in ("schedule", "eta")] == ["the model's", "the sampler's"]


def test_a_spec_without_them_is_what_earlier_versions_wrote() -> None:
    plain = json.loads(spec_of(sampler="euler_a").to_json())
    assert "schedule" not in plain and "eta" not in plain
    told = json.loads(spec_of(sampler="euler_a", schedule="karras", eta=1.0).to_json())
    assert told == {**plain, "schedule": "karras", "eta": 1.0}
    assert JobSpec.from_json(json.dumps(told)) == spec_of(sampler="euler_a", schedule="karras", eta=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sampler": "ddim", "schedule": "karras"},
            "'ddim' does not follow the schedule 'karras', only model or trailing",
        ),
        ({"sampler": "heun", "eta": 0.0}, "'heun' has no eta"),
        ({"sampler": "Euler a"}, "sampler: 'Euler a': input should be 'lms', 'euler'"),
        ({"sampler": "ddim", "eta": -0.1}, "eta: -0.1: input should be greater than or equal to 0"),
    ],
)
def test_a_strangers_spec_is_held_to_it(change: dict[str, Any], message: str) -> None:
    told = {**json.loads(spec_of().to_json()), **change}
    with pytest.raises(InvalidInput) as caught:
        JobSpec.from_json(json.dumps(told))
    assert message in str(caught.value)
