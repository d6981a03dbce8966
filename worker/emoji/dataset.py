"""The pictures that a training sees: drawn from the corpus by number, rendered once, kept as one array on disk."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.emoji.corpus import ALL_SUBJECTS, SIZE, Scene, draw_scene, render, stream
from worker.emoji.settings import Settings

Pictures = NDArray[np.uint8]
"""RGB pictures, shape (count, 128, 128, 3), in 0..255."""


def scene_number(index: int, settings: Settings) -> tuple[Scene, random.Random]:
    """The scene of a number, and the random stream that goes on to jitter it."""
    rng = stream(f"{settings.seed}:{index}")
    return draw_scene(rng, ALL_SUBJECTS[: settings.subjects], settings.pairs, settings.hats), rng


def scenes(settings: Settings) -> list[Scene]:
    """The scenes of a training's pictures, in order."""
    return [scene_number(index, settings)[0] for index in range(settings.renders)]


def pictures(settings: Settings, directory: Path) -> Pictures:
    """The pictures of a training, rendered at the first call and read from ``directory`` afterwards."""
    path = directory / "pictures.npy"
    if not path.is_file():
        np.save(path, render_numbers(range(settings.renders), settings))
    loaded: Pictures = np.load(path, mmap_mode="r")
    return loaded


def held_out(count: int, settings: Settings) -> Pictures:
    """Pictures that no training with these settings has seen."""
    return render_numbers(range(settings.renders, settings.renders + count), settings)


def render_numbers(numbers: range, settings: Settings) -> Pictures:
    """Render the scenes of some numbers, jittered."""
    result = np.empty((len(numbers), SIZE, SIZE, 3), np.uint8)
    for row, index in enumerate(numbers):
        result[row] = np.asarray(render(*scene_number(index, settings)))
        if row % 2000 == 1999:
            print(f"rendered {row + 1} of {len(numbers)} pictures", flush=True)
    return result


def as_tensor(batch: Pictures, device: torch.device | str = "cpu") -> Tensor:
    """Pictures as the autoencoder takes them: (count, 3, height, width), in -1..1."""
    return torch.tensor(batch, device=device).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def in_chunks(batch: Pictures, size: int, device: torch.device | str = "cpu") -> Iterator[Tensor]:
    """The pictures as tensors, ``size`` at a time."""
    for start in range(0, len(batch), size):
        yield as_tensor(batch[start : start + size], device)
