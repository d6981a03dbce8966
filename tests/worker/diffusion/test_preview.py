from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from farm.errors import ModelError
from worker.diffusion.latents import decode, encode_mean
from worker.diffusion.preview import PreviewMap, fit, fit_preview_map, read_preview_map
from worker.models.model import LoadedModel


def test_a_preview_is_a_linear_map_of_each_latent_pixel_and_its_neighbours() -> None:
    kernel = torch.zeros(3, 4, 3, 3)
    kernel[0, 0, 1, 1], kernel[2, 1, 1, 1], kernel[1, 2, 1, 0] = 1.0, -0.5, 0.8  # the last one: of the left neighbour
    latents = torch.zeros(2, 4, 3, 5)
    latents[1, 0, 2, 4], latents[1, 1, 0, 0], latents[1, 2, 1, 1] = 0.4, 1.0, 0.5
    picture = PreviewMap(kernel, torch.tensor([0.0, 0.2, 1.0])).render(latents)
    assert picture.shape == (2, 3, 5, 3)
    assert picture.dtype == torch.uint8
    assert picture[0, 0, 0].tolist() == [0, 51, 255]
    assert picture[1, 2, 4].tolist() == [102, 51, 255]
    assert picture[1, 0, 0].tolist() == [0, 51, 128]
    assert picture[1, 1, 2].tolist() == [0, 153, 255]
    assert picture[1, 1, 0].tolist() == [0, 51, 255]


def test_a_pixel_at_the_edge_is_its_own_neighbour() -> None:
    kernel = torch.full((3, 1, 3, 3), 1 / 9)
    even = PreviewMap(kernel, torch.zeros(3)).render(torch.ones(1, 1, 2, 4))
    assert (even == 255).all()


def test_the_fit_finds_a_map_that_explains_everything() -> None:
    truth = PreviewMap(torch.randn(3, 4, 3, 3) / 20, torch.tensor([0.4, 0.5, 0.6]))
    latents = torch.randn(3, 4, 12, 8)
    framed = F.pad(latents, [1, 1, 1, 1], mode="replicate")
    small = F.conv2d(framed, truth.kernel, truth.bias)
    found = fit(latents, small.repeat_interleave(8, 2).repeat_interleave(8, 3))
    assert torch.allclose(found.kernel, truth.kernel, atol=1e-5)
    assert torch.allclose(found.bias, truth.bias, atol=1e-5)


def test_the_fit_predicts_colours_better_than_their_mean(tiny_model: LoadedModel) -> None:
    preview = fit_preview_map(tiny_model.vae)
    images = F.interpolate(torch.rand(4, 3, 4, 4), size=(64, 64), mode="bilinear")
    with torch.no_grad():
        latents = encode_mean(tiny_model.vae, images)
        colors = F.avg_pool2d(decode(tiny_model.vae, latents).clamp(0, 1), 8).permute(0, 2, 3, 1)
    error = (preview.render(latents) / 255 - colors).square().mean()
    assert error < (colors - colors.mean(dim=(0, 1, 2))).square().mean()


def test_the_fit_is_deterministic_and_survives_its_file(tiny_model: LoadedModel, tmp_path: Path) -> None:
    preview = fit_preview_map(tiny_model.vae)
    assert torch.equal(preview.kernel, fit_preview_map(tiny_model.vae).kernel)
    path = tmp_path / "preview.json"
    path.write_text(preview.to_json(), encoding="utf-8")
    read = read_preview_map(path)
    assert torch.equal(read.kernel, preview.kernel)
    assert torch.equal(read.bias, preview.bias)
    assert read.channels == 4


MALFORMED = (
    *("", "[]", '{"kernel": 1}', '{"kernel": [[1]], "bias": [1, 2, 3]}', '{"kernel": "x"}', "[" * 100_000),
    json.dumps({"kernel": torch.zeros(3, 4, 1, 1).tolist(), "bias": [0, 0, 0]}),
    json.dumps({"kernel": torch.zeros(3, 4, 3, 3).tolist(), "bias": [0, 0, float("nan")]}),
)


@pytest.mark.parametrize("text", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_map_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "preview.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="is not a preview map"):
        read_preview_map(path)
