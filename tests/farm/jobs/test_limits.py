"""What a worker's operator lets jobs ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from farm.errors import RenderError
from farm.jobs.limits import ALONE_SECONDS, Limits
from farm.jobs.request import JobRequest
from farm.jobs.spec import InitReference, JobSpec, ResolvedSpec


def spec(**fields: Any) -> JobSpec:
    picture = {"init": Path("picture.png")} if fields.pop("from_image", False) else {}
    request = JobRequest.parse({"prompt": "a cat", "seed": 1, "width": 512, "height": 256, **picture, **fields})
    return request.specs(InitReference(sha256="0" * 64, extension="png"), default_model="emoji")[0]


def resolved(**fields: Any) -> ResolvedSpec:
    asked = spec(**fields)
    return ResolvedSpec.of(asked, width=asked.width or 512, height=asked.height or 512, scale=7.5)


@pytest.mark.parametrize(
    ("limits", "fields", "said"),
    [
        (
            Limits(side=256),
            {},
            r"it asks for 512 pixels a side, but the worker w does at most 256 \(.*--max-side\)",
        ),
        (
            Limits(steps=20),
            {"steps": 21},
            r"it asks for 21 steps, but the worker w does at most 20 \(.*--max-steps\)",
        ),
    ],
)
def test_what_is_beyond_a_limit_is_refused(limits: Limits, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RenderError, match=said) as caught:
        limits.check(resolved(**fields), "w")
    assert caught.value.kind == "limit"


@pytest.mark.parametrize(
    ("limits", "fields"),
    [
        (Limits(), {"width": 2_048, "steps": 1_000}),
        (Limits(side=512, steps=20), {"steps": 20}),
        (Limits(steps=20), {"from_image": True, "steps": 50, "start_step": 30}),
    ],
)
def test_what_is_within_passes(limits: Limits, fields: dict[str, Any]) -> None:
    limits.check(resolved(**fields), "w")


@pytest.mark.parametrize(
    ("limits", "asked", "alone", "given"),
    [
        (Limits(), None, False, None),
        (Limits(), 60.0, False, 60.0),
        (Limits(seconds=30.0), 60.0, False, 30.0),
        (Limits(seconds=90.0), 60.0, False, 60.0),
        (Limits(seconds=90.0), None, False, 90.0),
        (Limits(), None, True, ALONE_SECONDS),
        (Limits(seconds=90.0), None, True, 90.0),
    ],
)
def test_the_shortest_time_counts(limits: Limits, asked: float | None, alone: bool, given: float | None) -> None:
    assert limits.timed(spec(time_limit=asked), alone=alone).time_limit == given


def test_a_size_that_is_left_to_the_model_is_within() -> None:
    assert Limits(side=64).excess(spec(width=None, height=None)) is None
    assert Limits(side=64).excess(spec(width=None)) == ("256 pixels a side", "64", "--max-side")


def test_limits_for_people() -> None:
    assert str(Limits(side=1_024, seconds=90.5)) == "1,024 pixels a side, 90.5 s"
    assert str(Limits()) == ""
