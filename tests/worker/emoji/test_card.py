"""The card's pictures and numbers are made by one command, into the model's own directory."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from tests.worker.emoji.conftest import needs_font
from worker.emoji.card import make_card, markdown
from worker.emoji.drawing import draw
from worker.emoji.effort import Effort
from worker.emoji.measures import Measure


@pytest.mark.long
@needs_font
def test_a_card_is_made_of_a_model_alone(micro_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.emoji.card.draw", partial(draw, steps=2))
    model = tmp_path / "model"
    shutil.copytree(micro_run / "model", model)
    little = Effort(seeds=1, subjects=2, scenes=2, pairs=2, mixes=2, reconstructions=2, few=2, renders=2, steps=2)
    measures = make_card(model, little)
    numbers = json.loads((model / "evaluation.json").read_text(encoding="utf-8"))
    assert list(numbers) == [measure.name for measure in measures]
    width, height = _size(model / "modes.png")
    assert width == 8 * 64
    assert height % 64 == 0
    assert _size(model / "samples.png") == (8 * 128, 2 * 128)
    assert (model / "subjects.png").is_file()
    assert (model / "autoencoder.png").is_file()


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_the_table_of_a_card_names_what_is_missed() -> None:
    lines = markdown([Measure("sharp", 26.0, 27.0), Measure("slow", 1.0, 2.0, at_most=True)]).splitlines()
    assert lines[2:] == ["| sharp | 26.000 | ≥ 27 (missed) |", "| slow | 1.000 | ≤ 2 |"]
