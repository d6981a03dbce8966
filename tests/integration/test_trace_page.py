"""The page of a job that a real farm rendered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farm.client import FarmClient
from tests.farm.pages.test_trace_page import Parsed, points

pytestmark = pytest.mark.usefixtures("worker")

START, STEPS = 4, 12


def test_the_page_of_a_rendered_job_has_all_that_it_left(
    shell: Callable[..., Any], picture: Path, tmp_path: Path, client: FarmClient
) -> None:
    answer = shell(
        *["submit", "mix", "a giraffe", "a cat", "--negative", "an otter", "--loss", "blue:every=2", "--model", "tiny"],
        *["--init", str(picture), "--start-step", str(START), "--steps", str(STEPS), "--trace", "video"],
        *["--wait", "--json"],
    )
    [job] = json.loads(answer.stdout.splitlines()[0])["jobs"]

    told = shell("trace", job, "--out", "pages", "--json")

    assert told.stderr == ""
    seen = json.loads(told.stdout)
    rendered = STEPS - START
    assert (seen["steps"], seen["frames"], seen["frames_kept"], seen["video"]) == (rendered, rendered, rendered, True)
    found = Parsed((tmp_path / seen["path"]).read_text(encoding="utf-8"))
    assert len(found.all("img")) == rendered + 2, "the frames, the picture, and where it started"
    assert len(found.all("video")) == 1
    assert [figure["id"] for figure in found.all("figure", **{"class": "plot"})] == [
        *("schedule", "predictions", "angle", "distance", "latents", "x0-change", "losses", "losses-scaled"),
    ]
    in_plots = STEPS + (3 + 1 + 1 + 3) * rendered + (rendered - 1) + 2 * (rendered // 2)
    assert points(found) == in_plots
    read = [token.piece for prompt in client.result(job).prompts for token in prompt.tokens]
    assert [text.split()[0] for text in found.text("li") if text.startswith(tuple(read))] == read
