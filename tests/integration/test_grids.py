"""Grids and morphs, from the shell to the sheet and the film, on a worker that renders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from farm.client import FarmClient
from worker.results.png import read_spec

pytestmark = pytest.mark.usefixtures("worker")

Shell = Callable[..., Any]


def test_a_grid_comes_back_as_a_sheet(shell: Shell, client: FarmClient, tmp_path: Path) -> None:
    answer = shell(
        *("submit", "grid", "a cat", "a giraffe", "--model", "tiny", "--seed", "7", "--steps", "4"),
        *("--loss", "blue:every=1", "--x", "mix=0,0.5,1", "--y", "loss-scale=0,50", "--out", "renders", "--json"),
    )
    told = json.loads(answer.stdout.splitlines()[0])
    assert told["seeds"] == [7] * 6
    specs = [read_spec((tmp_path / "renders" / f"{job}.png").read_bytes()) for job in told["jobs"]]
    shares = [(spec.conditioning.prompts[0].weight, spec.guidance.losses[0].scale) for spec in specs if spec]
    assert shares == [(share, scale) for scale in (0, 50) for share in (0, 0.5, 1)]
    assert client.ledger.get(told["jobs"][4]).labels == {"grid.x": "mix=0.5", "grid.y": "losses.0.scale=50"}

    shell("sheet", told["batch"], "--html", "sheet.html")

    with (
        Image.open(tmp_path / "sheet.png") as sheet,
        Image.open(tmp_path / "renders" / f"{told['batch']}.sheet.png") as same,
    ):
        assert sheet.tobytes() == same.tobytes()
        assert sheet.width == 2 * 40 + 168 + 3 * (256 + 24)
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 6
    assert 'data-place="mix 0.5, blue scale 50"' in page
    assert '<p class="faint">mix · seed 7 · 4 steps · lms · guidance 7.5</p>' in page, (
        "the model's own guidance is told"
    )


def test_a_morph_ends_where_each_prompt_alone_would(shell: Shell, tmp_path: Path) -> None:
    common = ("--model", "tiny", "--seed", "7", "--steps", "4", "--out", "renders")
    answer = shell("morph", "a cat", "a giraffe", "--path", "spherical", "--frames", "3", *common)
    batch = answer.stdout.split()[0]
    alone = [shell("submit", "txt2img", prompt, *common).stdout.split()[0] for prompt in ("a cat", "a giraffe")]

    ends = [f"{batch}-0000", f"{batch}-0002"]
    for morphed, single in zip(ends, alone, strict=True):
        assert _pixels(tmp_path / "renders" / f"{morphed}.png") == pytest.approx(
            _pixels(tmp_path / "renders" / f"{single}-0000.png"), abs=1
        )
    with av.open(str(tmp_path / "renders" / f"{batch}.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 3
    with Image.open(tmp_path / "renders" / f"{batch}.strip.png") as strip:
        assert strip.size == (3 * 256, 256)


def _pixels(path: Path) -> list[int]:
    with Image.open(path) as picture:
        return list(picture.convert("RGB").tobytes())
