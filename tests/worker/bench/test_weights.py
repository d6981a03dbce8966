"""Random weights of a shape are a model like any other."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from farm import keys
from worker.bench import costing, weights
from worker.bench.__main__ import SHAPES
from worker.bench.__main__ import _model as model_of
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.registry import LocalDirectory

BUILDS = {
    "sd14": partial(weights.build, width=32, side=8, vae_width=32, encoder=(64, 2)),
    "sdxl": partial(weights.build_xl, width=64, side=8, depth=2, vae_width=32, encoders=((64, 2), (128, 3))),
}


def test_the_shapes_are_those_of_the_command() -> None:
    assert tuple(weights.SHAPES) == SHAPES


@pytest.mark.long
@pytest.mark.parametrize("shape", BUILDS)
def test_random_weights_load_and_compute(tmp_path: Path, shape: str) -> None:
    BUILDS[shape](tmp_path / "model")

    model = ModelLoader(place("cpu"), cache=tmp_path).load("random", LocalDirectory(tmp_path / "model"))

    out = costing.forward(model, model.conditioned(model.prompts.encode("a cat")), 2)
    assert out.shape == (2, *model.latent_shape) == (2, 4, 8, 8)
    assert torch.isfinite(out).all() and out.std() > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_jobs_can_be_of_a_shape_by_its_name(shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "random_weights", lambda shape: tmp_path / shape)

    name, directory = model_of(None, shape)

    assert keys.model_name(name) == f"random-{shape}"
    assert directory == tmp_path / shape
