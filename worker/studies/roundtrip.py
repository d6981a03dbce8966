"""The study of the autoencoder: what is left of a picture that is encoded and decoded, also with noise in between.

As in the method's notebook, the picture's latents are a sample of what the encoder makes of it (or the mean), noise is
added as the sampler's schedule has it at a step, and what is noisy is decoded as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from farm.errors import RenderError
from farm.jobs.answers import Channel, Noised, Roundtrip
from farm.pictures.video import strip
from worker.diffusion import latents
from worker.diffusion.fitting import cut_off
from worker.diffusion.noise import NoiseStream
from worker.diffusion.plans import SamplingPlan, plan
from worker.diffusion.schedules import read_schedule
from worker.engine.request import Pixels, latent_shape
from worker.results.finished import Artifact
from worker.results.png import encode_plain_png, encode_study_png
from worker.studies.study import Answered, Asked, Compute

AMPLIFIED = 8
"""By how much the picture of the difference is."""
_WHITE = 255
_IN_TILES = "the picture went through the autoencoder in tiles, because memory was short: their seams may show"


@dataclass(frozen=True)
class _Encoded:
    """Latents [1, 4, h, w] on the model's device, what noise there would be for them, and the same on the CPU."""

    latents: Tensor
    noise: Tensor
    channels: NDArray[np.float32]
    """[4, h, w]"""


def roundtrip(asked: Asked, compute: Compute) -> Answered:
    """A picture through the autoencoder and back, its latents as grey pictures, and the noised ones decoded.

    Raises `RenderError('nan')` if the autoencoder makes numbers that are not finite.
    """
    spec, model = asked.spec, asked.model
    assert asked.picture is not None, "the spec of a round trip has an init picture"
    image = latents.image_tensor(asked.picture, spec.width, spec.height, spec.start.fit)
    original = latents.to_pixels(image)[0].numpy()
    shape = latent_shape(spec, model)
    has_room = compute(lambda: asked.has_room(shape))
    whole = has_room or max(spec.width, spec.height) <= int(model.vae.tile_sample_min_size)
    plans = _plans(asked)
    encoded = compute(lambda: _encoded(asked, image, whole=whole))
    decoded = compute(lambda: _decoded(model.vae, encoded.latents, whole=whole))
    noised = [compute(partial(_noised, model.vae, encoded, one, whole=whole)) for one in plans]
    answer = Roundtrip(
        encode=spec.start.encode,
        pixels=(spec.width, spec.height),
        latents=shape,
        numbers=(original.size, math.prod(shape)),
        psnr=psnr(original, decoded),
        amplified=AMPLIFIED,
        channels=tuple(map(_channel, encoded.channels)),
        sampler=spec.sampler,
        steps=spec.steps,
        noised=tuple(_told(one, psnr(original, pixels)) for one, pixels in zip(plans, noised, strict=True)),
    )
    beside = {
        "original.png": original,
        "difference.png": _difference(original, decoded),
        **{f"latents/{number}.png": _grey(channel) for number, channel in enumerate(encoded.channels)},
        **_noised_pictures(decoded, plans, noised),
    }
    artifacts = (
        Artifact("image.png", "image/png", encode_study_png(decoded, spec)),
        *(Artifact(name, "image/png", encode_plain_png(pixels)) for name, pixels in beside.items()),
    )
    return Answered(answer, artifacts, tuple(filter(None, (cut_off(spec), None if whole else _IN_TILES))))


def _plans(asked: Asked) -> list[SamplingPlan]:
    """What jobs would do that start at the steps that are asked about."""
    spec, config = asked.spec, asked.model.scheduler_config
    schedule = read_schedule(config, spec.sampler, spec.steps, spacing=spec.schedule, eta=spec.eta)
    return [plan(schedule, at) for at in spec.noise_steps]


def _told(at: SamplingPlan, left: float | None) -> Noised:
    """Of the noise at a step and what the decoder left of the picture, in dB."""
    return Noised(
        step=at.start,
        timestep=float(at.timestep[0]),
        alpha=float(at.start_alpha),
        sigma=float(at.start_sigma),
        psnr=left,
    )


def _noised_pictures(decoded: Pixels, plans: Sequence[SamplingPlan], noised: Sequence[Pixels]) -> dict[str, Pixels]:
    """By name, what noised latents decode to; of several also a strip, which begins with what no noise was added to."""
    pictures = {f"noised/{one.start:04d}.png": pixels for one, pixels in zip(plans, noised, strict=True)}
    if len(noised) > 1:
        pictures["strip.png"] = np.asarray(strip(map(Image.fromarray, (decoded, *noised))))
    return pictures


def psnr(one: Pixels, other: Pixels) -> float | None:
    """Peak signal to noise of two pictures, in dB: 10·log₁₀(255² / mean squared difference). None if they are equal."""
    error = float(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2))
    return 10 * math.log10(_WHITE**2 / error) if error else None


@torch.no_grad()
def _encoded(asked: Asked, image: Tensor, *, whole: bool) -> _Encoded:
    """The draws are an img2img job's: the autoencoder's sample, if it is one, and then the noise."""
    stream = NoiseStream(asked.spec.seed)
    with _tiled(asked.model.vae, whole=whole):
        if asked.spec.start.encode == "mean":
            found = latents.encode_mean(asked.model.vae, image)
        else:
            found = latents.encode(asked.model.vae, image, stream)
    noise = stream.draw(tuple(found.shape)).to(found.device)
    channels = _finite(found)[0].cpu().numpy()
    return _Encoded(found, noise, channels)


def _noised(vae: AutoencoderKL, encoded: _Encoded, at: SamplingPlan, *, whole: bool) -> Pixels:
    """The picture of the latents with the noise that a job would start with at a step."""
    return _decoded(vae, at.start_alpha * encoded.latents + at.start_sigma * encoded.noise, whole=whole)


@torch.no_grad()
def _decoded(vae: AutoencoderKL, noisy: Tensor, *, whole: bool) -> Pixels:
    """The picture [height, width, 3] of latents [1, 4, h, w]."""
    with _tiled(vae, whole=whole):
        pixels: Pixels = latents.to_pixels(_finite(latents.decode(vae, noisy)))[0].cpu().numpy()
    return pixels


@contextmanager
def _tiled(vae: AutoencoderKL, *, whole: bool) -> Iterator[None]:
    """The autoencoder works in tiles during the block, unless there is room for the whole."""
    if whole:
        yield
        return
    vae.enable_tiling()
    try:
        yield
    finally:
        vae.disable_tiling()


def _finite(tensor: Tensor) -> Tensor:
    if not torch.isfinite(tensor).all():
        raise RenderError("nan", "the autoencoder made numbers that are not finite")
    return tensor


def _channel(channel: NDArray[np.float32]) -> Channel:
    return Channel(
        low=float(channel.min()), high=float(channel.max()), mean=float(channel.mean()), deviation=float(channel.std())
    )


def _grey(channel: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A channel [h, w] as a grey picture, its lowest number black and its highest white; all grey if they are one."""
    low, high = float(channel.min()), float(channel.max())
    shade = np.full(channel.shape, 0.5) if low == high else (channel.astype(np.float64) - low) / (high - low)
    grey: NDArray[np.uint8] = np.rint(_WHITE * shade).astype(np.uint8)
    return grey


def _difference(one: Pixels, other: Pixels) -> Pixels:
    """|a − b|, amplified."""
    apart = np.abs(one.astype(np.int16) - other.astype(np.int16)) * AMPLIFIED
    shown: Pixels = np.minimum(apart, _WHITE).astype(np.uint8)
    return shown
