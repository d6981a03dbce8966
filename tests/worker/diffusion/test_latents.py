from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from farm.jobs.spec import ResolvedLossTerm
from tests.worker.diffusion.test_parity import gradient_picture
from worker.diffusion.latents import decode, encode, image_tensor, loss_gradient, to_pixels
from worker.diffusion.losses import WeightedLoss, load_losses
from worker.diffusion.noise import NoiseStream
from worker.models.model import LoadedModel


def test_a_picture_of_the_right_size_is_read_as_diffusers_reads_it() -> None:
    picture = gradient_picture(72, 64)
    expected = VaeImageProcessor().preprocess(picture)
    assert torch.equal(2 * image_tensor(picture, 72, 64) - 1, expected)


@pytest.mark.parametrize(("width", "height"), [(300, 100), (100, 300), (64, 64), (50, 20), (65, 64)])
def test_other_pictures_are_resized_and_cropped_about_the_centre(width: int, height: int) -> None:
    image = image_tensor(gradient_picture(width, height), 64, 64)
    assert image.shape == (1, 3, 64, 64)
    centre = image[0, :2, 31:33, 31:33].mean()
    assert centre == pytest.approx(0.5, abs=0.02)


def test_transparent_and_gray_pictures_are_read_as_rgb() -> None:
    assert image_tensor(Image.new("L", (64, 64), 255), 64, 64).min() == 1


def test_a_latent_is_diffusers_sample_of_the_posterior(tiny_model: LoadedModel) -> None:
    image = image_tensor(gradient_picture(), 64, 64)
    with torch.no_grad():
        posterior = tiny_model.vae.encode(2 * image - 1).latent_dist
    expected = 0.18215 * posterior.sample(torch.Generator().manual_seed(9))
    torch.testing.assert_close(encode(tiny_model.vae, image, NoiseStream(9)), expected)


def test_decoding_undoes_scale_and_shift(tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = tiny_model.vae
    latents = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        plain = decode(vae, latents)
        assert plain.shape == (2, 3, 64, 64)
        torch.testing.assert_close(plain, vae.decode(latents / 0.18215).sample / 2 + 0.5)
        monkeypatch.setattr(vae, "_internal_dict", {**vae.config, "scaling_factor": 0.5, "shift_factor": 0.1})
        torch.testing.assert_close(decode(vae, (latents / 0.18215 - 0.1) * 0.5), plain, atol=1e-4, rtol=1e-4)


def test_pixels_are_rounded_and_clamped() -> None:
    images = torch.tensor([-1.0, 0.0, 0.5, 0.999, 2.0, 1.0]).view(1, 3, 1, 2)
    pixels = to_pixels(images)
    assert pixels.dtype == torch.uint8
    np.testing.assert_array_equal(pixels.numpy(), [[[[0, 128, 255], [0, 255, 255]]]])


def terms(*wanted: tuple[str, float]) -> list[WeightedLoss]:
    losses = load_losses(plugins=[])
    return [losses.term(ResolvedLossTerm(name=name, scale=scale)) for name, scale in wanted]


def test_the_loss_gradient_equals_finite_differences(tiny_model: LoadedModel) -> None:
    x0 = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    gradient, values = loss_gradient(tiny_model.vae, x0, [terms(("blue", 200.0))])
    direction = gradient / gradient.norm()
    step = 1e-2
    _, (above,) = loss_gradient(tiny_model.vae, x0 + step * direction, [terms(("blue", 200.0))])
    _, (below,) = loss_gradient(tiny_model.vae, x0 - step * direction, [terms(("blue", 200.0))])
    assert 200 * (above[0] - below[0]) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.02)
    assert not gradient.requires_grad
    assert below[0] < values[0][0] < above[0]


def test_jobs_of_unlike_losses_do_not_see_each_other(tiny_model: LoadedModel) -> None:
    x0 = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    wanted = [terms(("blue", 200.0)), terms(("color", -5.0), ("sharpness", 40.0)), terms(("contrast", 1.0))]
    together, values = loss_gradient(tiny_model.vae, x0, wanted)
    assert [len(job) for job in values] == [1, 2, 1]
    for k, job in enumerate(wanted):
        alone, (alone_values,) = loss_gradient(tiny_model.vae, x0[k : k + 1], [job])
        # The losses have kinks, where a rounding error turns one pixel's gradient round.
        assert (together[k : k + 1] - alone).norm() < 0.05 * alone.norm()
        assert values[k] == pytest.approx(alone_values, rel=1e-5)


def test_the_seeds_blue_guidance(tiny_model: LoadedModel) -> None:
    """The notebook's cell, word for word, in VE space: its gradient by the latents is ours by x₀."""
    sigma = 5.0
    latents = (sigma * torch.randn(1, 4, 8, 8)).requires_grad_()
    noise_pred = torch.randn(1, 4, 8, 8)
    latents_x0 = latents - sigma * noise_pred
    denoised_images = tiny_model.vae.decode((1 / 0.18215) * latents_x0).sample / 2 + 0.5
    loss = torch.abs(denoised_images[:, 2] - 0.9).mean() * 200
    expected = torch.autograd.grad(loss, latents)[0]
    gradient, values = loss_gradient(tiny_model.vae, latents_x0, [terms(("blue", 200.0))])
    torch.testing.assert_close(gradient, expected)
    assert values == [[pytest.approx(loss.item() / 200)]]
