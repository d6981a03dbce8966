"""A picture through the autoencoder and back, against the notebook's way with diffusers."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LMSDiscreteScheduler
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from farm.errors import RenderError
from farm.jobs.spec import MAX_NOISE_STEPS
from farm.pictures.provenance import spec_in
from tests.worker.studies.conftest import Ask
from worker.models.model import LoadedModel
from worker.studies.roundtrip import AMPLIFIED, psnr
from worker.studies.study import Answered

SCALE = 0.18215
SEED = 3


def pictures(answered: Answered) -> dict[str, Any]:
    """The pixels of what it made, by name."""
    return {one.name: np.asarray(Image.open(io.BytesIO(one.read()))) for one in answered.artifacts}


@torch.no_grad()
def latents_of(model: LoadedModel, picture: Image.Image, generator: torch.Generator | None) -> torch.Tensor:
    """As the notebook's `pil_to_latent`: a sample; the mean without a generator."""
    posterior = model.vae.encode(VaeImageProcessor().preprocess(picture)).latent_dist
    found: torch.Tensor = SCALE * (posterior.mean if generator is None else posterior.sample(generator))
    return found


@torch.no_grad()
def decoded(model: LoadedModel, latents: torch.Tensor) -> Any:
    """As its `latents_to_pil`."""
    image = (model.vae.decode(latents / SCALE).sample / 2 + 0.5).clamp(0, 1)
    return (image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def decibels(one: Any, other: Any) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other.astype(float)) ** 2)))


@pytest.mark.long
@pytest.mark.parametrize("encode", ["sample", "mean"])
def test_a_round_trip(ask: Ask, model: LoadedModel, picture: Image.Image, encode: str) -> None:
    generator = torch.Generator().manual_seed(SEED) if encode == "sample" else None
    latents = latents_of(model, picture, generator)
    original, expected = np.asarray(picture), decoded(model, latents)

    answered = ask(mode="roundtrip", encode=encode, seed=SEED)
    answer, made = answered.answer, pictures(answered)

    np.testing.assert_allclose(made["image.png"].astype(int), expected.astype(int), atol=1)
    assert answer.psnr == pytest.approx(decibels(original, expected), abs=0.01)
    assert (answer.pixels, answer.latents, answer.numbers, answer.ratio) == ((64, 64), (4, 8, 8), (12_288, 256), 48)
    np.testing.assert_array_equal(made["original.png"], original)
    apart = np.abs(original.astype(int) - made["image.png"].astype(int)) * AMPLIFIED
    np.testing.assert_array_equal(made["difference.png"], apart.clip(0, 255))
    assert (answer.amplified, answered.warnings) == (AMPLIFIED, ())
    for number, channel in enumerate(latents[0]):
        told, grey = answer.channels[number], made[f"latents/{number}.png"]
        low, high = channel.min().item(), channel.max().item()
        assert (told.low, told.high) == pytest.approx((low, high), abs=1e-4)
        assert (told.mean, told.deviation) == pytest.approx(
            (channel.mean().item(), channel.std(False).item()), abs=1e-4
        )
        np.testing.assert_allclose(grey.astype(int), ((channel - low) / (high - low) * 255).round().numpy(), atol=1)
    assert set(made) == {"image.png", "original.png", "difference.png", *(f"latents/{n}.png" for n in range(4))}
    spec = spec_in(answered.artifacts[0].read())
    assert spec is not None and (spec.mode, spec.seed, spec.start.encode) == ("roundtrip", SEED, encode)


@pytest.mark.parametrize(("sampler", "scheduler"), [("lms", LMSDiscreteScheduler), ("ddim", DDIMScheduler)])
def test_the_noised_latents_are_those_of_add_noise(
    ask: Ask, model: LoadedModel, picture: Image.Image, sampler: str, scheduler: Any
) -> None:
    generator = torch.Generator().manual_seed(SEED)
    latents = latents_of(model, picture, generator)
    noise = torch.randn(latents.shape, generator=generator)
    made_by = scheduler.from_config(dict(model.scheduler_config))
    made_by.set_timesteps(15)

    answered = ask(mode="roundtrip", noise_steps=[10, 14], steps=15, sampler=sampler, seed=SEED)
    answer, made = answered.answer, pictures(answered)

    for told in answer.noised:
        timesteps = made_by.timesteps[told.step : told.step + 1]
        expected = decoded(model, made_by.add_noise(latents, noise, timesteps))
        np.testing.assert_allclose(made[f"noised/{told.step:04d}.png"].astype(int), expected.astype(int), atol=1)
        assert told.timestep == pytest.approx(float(timesteps[0]))
        assert told.psnr == pytest.approx(decibels(np.asarray(picture), expected), abs=0.02)
        if sampler == "lms":
            assert (told.alpha, told.sigma) == (1, pytest.approx(float(made_by.sigmas[told.step]), rel=1e-5))
    assert [told.step for told in answer.noised] == [10, 14]
    assert made["strip.png"].shape == (256, 3 * 256, 3), "the decoded picture, and each with noise"


def test_one_noised_picture_needs_no_strip(ask: Ask) -> None:
    assert "strip.png" not in pictures(ask(mode="roundtrip", noise_steps=[10], steps=15))
    steps = list(range(MAX_NOISE_STEPS))
    assert len(ask(mode="roundtrip", noise_steps=steps, steps=16).answer.noised) == MAX_NOISE_STEPS


def test_where_there_is_no_room_it_is_done_in_tiles_and_said(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pictures(ask(mode="roundtrip", width=128, height=128))["image.png"]
    in_tiles = ask(mode="roundtrip", width=128, height=128, has_room=False)
    assert in_tiles.warnings == (
        "the picture went through the autoencoder in tiles, because memory was short: their seams may show",
    )
    assert pictures(in_tiles)["image.png"].shape == whole.shape
    assert not np.array_equal(pictures(in_tiles)["image.png"], whole)
    assert ask(mode="roundtrip", has_room=False).warnings == (), "it is no larger than a tile"


def test_equal_pictures_have_no_ratio_of_signal_to_noise() -> None:
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert psnr(black, black) is None
    assert psnr(black, white) == 0
    assert psnr(black, black + np.uint8(1)) == pytest.approx(48.13, abs=0.01)


def test_an_autoencoder_that_overflows_is_told(ask: Ask, model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.vae, "_internal_dict", {**model.vae.config, "scaling_factor": float("inf")})
    with pytest.raises(RenderError, match="the autoencoder made numbers that are not finite"):
        ask(mode="roundtrip")
