"""What a worker's operator lets jobs ask for."""

from __future__ import annotations

from typing import Any

import pytest

from farm.errors import RenderError
from farm.spec import JobSpec
from tests.worker.engine.conftest import spec_of
from worker.limits import ALONE_SECONDS, Limits


def spec(**fields: Any) -> JobSpec:
    return spec_of(**{"width": 512, "height": 256, **fields})


@pytest.mark.parametrize(
    ("limits", "fields", "said"),
    [
        (
            Limits(side=256),
            {},
            r"it asks for 512 pixels a side, and the worker w does 256 at the most \(.*--max-side\)",
        ),
        (
            Limits(steps=20),
            {"steps": 21},
            r"it asks for 21 steps, and the worker w does 20 at the most \(.*--max-steps\)",
        ),
    ],
)
def test_what_is_beyond_a_limit_is_refused(limits: Limits, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RenderError, match=said) as caught:
        limits.check(spec(**fields), "w")
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
    limits.check(spec(**fields), "w")


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
