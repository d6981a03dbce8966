"""What is read of results and traces that anybody may have written."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from farm.pages.record import MAX_LINE, read_steps
from tests.farm.pages import made_up

SPEC = made_up.spec(steps=12)


def line(**fields: Any) -> bytes:
    return json.dumps(made_up.lines(SPEC)[3] | fields).encode()


def test_all_that_a_worker_writes_is_read() -> None:
    steps, remarks = read_steps(made_up.objects(SPEC)["trace.jsonl"], SPEC)
    assert not remarks
    assert [step.step for step in steps] == list(range(12))
    assert (steps[2].norms["conditional"], steps[2].losses, steps[2].x0_change) == (26.4, {"blue": 0.46}, 1.5)
    assert steps[2].guidance is not None
    assert (steps[2].guidance.angle, steps[2].guidance.distance) == (7.0, 1.5)


def test_a_line_of_an_older_worker_is_read() -> None:
    old = b'{"step": 1, "timestep": 9.0, "sigma": 2.5, "norms": {"x": 1.0, "x0": 2.0, "output": 3.0}, "losses": {}}\n'
    (step,), remarks = read_steps(old, SPEC)
    assert (step.sigma, step.norms["x0"], step.guidance, step.x0_change, remarks) == (2.5, 2.0, None, None, ())


@pytest.mark.parametrize(
    "strange",
    [
        *(b"", b"{", b"[]", b"7", b"null", b'{"step": "x"}', b'{"sigma": 1}', b"\xff\xfe", b"[" * 4_000, b"\x00"),
        *(b'{"step": -1}', b'{"step": 12}', b'{"step": 1e400}', b'{"step": ' + b"9" * 3_000 + b"}"),
        *(line(norms=[1]), line(guidance=7), line(losses={f"l{n}": 1 for n in range(9)}), line(step=2)),
        line(more="x" * MAX_LINE),
    ],
)
def test_a_strange_line_hides_no_other(strange: bytes) -> None:
    written = made_up.objects(SPEC)["trace.jsonl"].splitlines()
    steps, remarks = read_steps(b"\n".join([*written[:3], strange, *written[4:]]), SPEC)
    assert [step.step for step in steps] == [0, 1, 2, *range(4, 12)]
    assert [remark.text for remark in remarks] == ["1 line of trace.jsonl cannot be read as a step of this job."]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1e101", "9" * 500, "true", '"5"', "[]"])
def test_what_is_no_number_to_draw_is_told_from_nothing(number: str) -> None:
    text = '{"step": 1, "sigma": %s, "norms": {"x": %s, "x0": 1}, "x0_change": null, "guidance": {"angle": %s}}'
    (step,), _ = read_steps((text % (number, number, number)).encode(), SPEC)
    assert step.guidance and step.guidance.angle is not None
    assert step.sigma is not None
    assert step.norms["x"] is not None
    assert math.isnan(step.sigma) and math.isnan(step.norms["x"]) and math.isnan(step.guidance.angle)
    assert (step.norms["x0"], step.x0_change, step.guidance.distance) == (1.0, None, None)
