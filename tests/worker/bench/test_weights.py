"""Random weights of a shape are a model like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from worker.bench import costing, weights
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.registry import LocalDirectory


@pytest.mark.long
def test_random_weights_load_and_compute(tmp_path: Path) -> None:
    weights.build(tmp_path / "model", width=160, side=8)

    model = ModelLoader(place("cpu"), cache=tmp_path).load("random", LocalDirectory(tmp_path / "model"))

    out = costing.forward(model, model.conditioned(model.prompts.encode("a cat")), 2)
    assert out.shape == (2, *model.latent_shape) == (2, 4, 8, 8)
    assert torch.isfinite(out).all() and out.std() > 0
