"""What a training does: one record of every number that a run depends on, with a preset for each kind of machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch


@dataclass(frozen=True)
class StagePlan:
    """How long one stage trains, and how fast: it ends after ``steps`` or ``minutes``, whichever comes first.

    The learning rate rises over the first 3 % of the stage to ``learning_rate`` and falls to zero along half a cosine
    at its end, so a stage that is bounded by time still anneals fully.
    """

    steps: int
    minutes: float
    batch: int
    learning_rate: float
    weight_decay: float = 1e-2


@dataclass(frozen=True)
class Settings:
    """Every number that a training run depends on, the shares of rows and pictures in 0..1.

    ``pairs`` of the pictures have a companion, ``hats`` of these a top hat; ``mixes`` of the denoiser's rows are mixes,
    of plain scenes half as many again.
    """

    subjects: int
    pairs: float
    renders: int
    autoencoder: StagePlan
    autoencoder_channels: tuple[int, int, int, int]
    text: StagePlan
    text_width: int
    text_layers: int
    denoiser: StagePlan
    denoiser_channels: tuple[int, int, int]
    denoiser_layers: int
    autocast: bool
    seed: int = 0
    hats: float = 0.3
    mixes: float = 0.0
    kl_weight: float = 5e-4
    ema_decay: float = 0.999
    caption_dropout: float = 0.1
    guidance_ease: float = 0.5
    ease_from: float = 0.7
    checkpoint_minutes: float = 2.0


def on_cpu(minutes: float = 180.0) -> Settings:
    """The recipe for two CPU cores: about ``minutes`` in all, rendering and saving included."""
    return Settings(
        subjects=122,
        pairs=0.0,
        renders=18_000,
        autoencoder=StagePlan(60_000, 0.36 * minutes, batch=12, learning_rate=1.5e-3, weight_decay=1e-3),
        autoencoder_channels=(32, 48, 96, 128),
        text=StagePlan(500, 0.02 * minutes, batch=64, learning_rate=2e-3),
        text_width=160,
        text_layers=2,
        denoiser=StagePlan(60_000, 0.54 * minutes, batch=48, learning_rate=1.5e-3),
        denoiser_channels=(48, 96, 192),
        denoiser_layers=1,
        autocast=bf16_pays(torch.device("cpu")),
        checkpoint_minutes=6.0,
    )


def on_cuda(minutes: float = 28.0) -> Settings:
    """The recipe for one data-centre GPU: more subjects, pairs of them, and larger batches."""
    return Settings(
        subjects=204,
        pairs=0.12,
        renders=60_000,
        autoencoder=StagePlan(20_000, 0.25 * minutes, batch=64, learning_rate=1.5e-3, weight_decay=1e-3),
        autoencoder_channels=(32, 48, 96, 128),
        text=StagePlan(800, 0.02 * minutes, batch=128, learning_rate=2e-3),
        text_width=160,
        text_layers=2,
        denoiser=StagePlan(60_000, 0.5 * minutes, batch=256, learning_rate=1.2e-3),
        denoiser_channels=(64, 128, 224),
        denoiser_layers=1,
        autocast=True,
    )


def micro() -> Settings:
    """The same stages, tiny: seconds on any machine, to see that everything runs."""
    return Settings(
        subjects=3,
        pairs=0.0,
        renders=12,
        autoencoder=StagePlan(4, 1.0, batch=2, learning_rate=1e-3),
        autoencoder_channels=(8, 8, 8, 8),
        text=StagePlan(4, 1.0, batch=4, learning_rate=1e-3),
        text_width=16,
        text_layers=1,
        denoiser=StagePlan(6, 1.0, batch=4, learning_rate=1e-3),
        denoiser_channels=(16, 16, 16),
        denoiser_layers=1,
        autocast=False,
    )


def refined(numbers: dict[str, Any], minutes: float = 75.0) -> Settings:
    """The recipe for training on from a finished model, whose settings are ``numbers`` as its record has them.

    UNet and text encoder learn, gently: mixes, subjects in top hats, and what has changed in the corpus. Guidance is
    eased from the start, as it was at the end of the run that made it.
    """
    plans = {name: StagePlan(**numbers[name]) for name in ("autoencoder", "text", "denoiser")}
    channels = {name: tuple(numbers[name]) for name in ("autoencoder_channels", "denoiser_channels")}
    finished = Settings(**(numbers | plans | channels))
    return replace(
        finished,
        pairs=0.08,
        hats=1.0,
        mixes=0.5,
        renders=min(finished.renders, 12_000),
        denoiser=StagePlan(finished.denoiser.steps, minutes, batch=32, learning_rate=5e-4),
        autocast=bf16_pays(torch.device("cpu")),
        ease_from=0.0,
        checkpoint_minutes=10.0,
    )


def bf16_pays(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 beat float32 there: on CUDA, and on CPUs with AMX tiles or AVX-512's dot."""
    return device.type == "cuda" or bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
