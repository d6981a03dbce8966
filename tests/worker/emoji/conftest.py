"""What the tests of the bundled model share: whether the font is there, and a tiny trained model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from worker.emoji.corpus import has_font
from worker.emoji.drawing import draw
from worker.emoji.settings import micro
from worker.emoji.train import train

needs_font = pytest.mark.skipif(not has_font(), reason="the font Noto Color Emoji is not installed")


@pytest.fixture(scope="session")
def micro_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished training on the micro configuration."""
    torch.set_num_threads(1)  # such small tensors gain nothing from a second one
    out = tmp_path_factory.mktemp("emoji")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("worker.emoji.train.draw", partial(draw, steps=2))
        train(micro(), out, torch.device("cpu"))
    return out
