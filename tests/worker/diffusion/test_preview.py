from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from farm.errors import ModelError
from worker.diffusion.latents import decode
from worker.diffusion.preview import PreviewMap, fit_preview_map, read_preview_map
from worker.models.loader import LoadedModel


def test_a_preview_is_a_linear_map_of_each_latent_pixel() -> None:
    matrix = torch.zeros(4, 3)
    matrix[0, 0], matrix[1, 2] = 1.0, -0.5
    latents = torch.zeros(2, 4, 3, 5)
    latents[1, 0, 2, 4], latents[1, 1, 0, 0] = 0.4, 1.0
    picture = PreviewMap(matrix, torch.tensor([0.0, 0.2, 1.0])).render(latents)
    assert picture.shape == (2, 3, 5, 3)
    assert picture.dtype == torch.uint8
    assert picture[0, 0, 0].tolist() == [0, 51, 255]
    assert picture[1, 2, 4].tolist() == [102, 51, 255]
    assert picture[1, 0, 0].tolist() == [0, 51, 128]


def test_the_fit_predicts_colours_better_than_their_mean(tiny_model: LoadedModel) -> None:
    preview = fit_preview_map(tiny_model.vae)
    latents = F.interpolate(torch.randn(4, 4, 2, 2), size=(8, 8), mode="bilinear")
    with torch.no_grad():
        colors = F.avg_pool2d(decode(tiny_model.vae, latents).clamp(0, 1), 8).permute(0, 2, 3, 1)
    error = (preview.render(latents) / 255 - colors).square().mean()
    assert error < (colors - colors.mean(dim=(0, 1, 2))).square().mean()


def test_the_fit_is_deterministic_and_survives_its_file(tiny_model: LoadedModel, tmp_path: Path) -> None:
    preview = fit_preview_map(tiny_model.vae)
    assert torch.equal(preview.matrix, fit_preview_map(tiny_model.vae).matrix)
    path = tmp_path / "preview.json"
    path.write_text(preview.to_json())
    read = read_preview_map(path)
    assert torch.equal(read.matrix, preview.matrix)
    assert torch.equal(read.bias, preview.bias)


@pytest.mark.parametrize("text", ["", "[]", '{"matrix": 1}', '{"matrix": [[1]], "bias": [1, 2, 3]}', '{"matrix": "x"}'])
def test_a_malformed_map_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "preview.json"
    path.write_text(text)
    with pytest.raises(ModelError, match="is not a preview map"):
        read_preview_map(path)
