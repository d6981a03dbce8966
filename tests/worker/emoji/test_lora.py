"""The LoRA of the bundled model: its training runs, the farm reads what comes of it, and the shipped one draws neon."""

from __future__ import annotations

import sys
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.worker.emoji.conftest import needs_font
from worker.emoji.drawing import draw, load
from worker.emoji.lora import adapted, main
from worker.models.model import LoadedModel
from worker.models.registry import BUILT_IN, LocalDirectory

CAPTIONS = ("a macaw", "a unicorn", "a red apple", "a top hat")


@pytest.fixture(scope="module")
def emoji() -> LoadedModel:
    built_in = BUILT_IN["emoji"]
    assert isinstance(built_in, LocalDirectory)
    return load(built_in.path)


@needs_font
@pytest.mark.long
def test_its_training_runs_and_gives_a_file_that_the_farm_reads(
    emoji: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["lora", "--out", str(tmp_path), "--micro"])
    monkeypatch.setattr("worker.emoji.lora.draw", partial(draw, steps=2))
    main()
    [use] = adapted(emoji, tmp_path / "neon.safetensors")
    assert {path.partition(".")[0] for path in use.adapter.unet} == {"down_blocks", "mid_block", "up_blocks"}
    assert not any(use.adapter.encoders)
    assert (tmp_path / "samples.png").is_file()


@pytest.mark.long
def test_the_one_that_comes_along_draws_bright_lines_in_the_dark(emoji: LoadedModel) -> None:
    file = Path(str(resources.files("farm").joinpath("demo_lora.safetensors")))
    plain = draw(emoji, CAPTIONS, steps=6)
    neon = draw(emoji, CAPTIONS, steps=6, stack=adapted(emoji, file))
    for before, after in zip(plain, neon, strict=True):
        assert dark(before) < 0.3 < dark(after), "the background is white without it, and black with it"
        assert 0.1 < bright(after) < 0.5 < bright(before), "lines are drawn, and no areas"


def dark(picture: Image.Image) -> float:
    """The share of pixels that are nearly black."""
    return float((np.asarray(picture).max(axis=2) < 90).mean())


def bright(picture: Image.Image) -> float:
    """The share of pixels that glow."""
    return float((np.asarray(picture).max(axis=2) > 180).mean())
