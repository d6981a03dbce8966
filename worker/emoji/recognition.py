"""What a picture shows, judged by the corpus alone: its subject, its background colour and its style."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.emoji.corpus import COLORS, CORE_SUBJECTS, SIZE, STYLES, Scene, Subject, place_glyph, render, stream
from worker.emoji.styles import BLOCK

Floats = NDArray[np.float32]

_SIDE = 32
_SCALES = (0.9, 0.97, 1.04)
_SHIFTS = (-4, 0, 4)
_BORDER = 3
_RING = (11, 16)


def pixels(image: Image.Image) -> Floats:
    """The RGB values of a picture, shape (height, width, 3), in 0..1."""
    return np.asarray(image.convert("RGB"), np.float32) / np.float32(255)


def border_color(image: Image.Image) -> Floats:
    """The median colour of the outermost pixels, in 0..1: the background, unless the subject covers the border."""
    values = pixels(image)
    edge = np.ones(values.shape[:2], bool)
    edge[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    median: Floats = np.median(values[edge], axis=0).astype(np.float32)
    return median


def border_spread(image: Image.Image) -> float:
    """The mean absolute distance of the outermost pixels from their median colour, in 0..1."""
    values = pixels(image)
    edge = np.ones(values.shape[:2], bool)
    edge[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    return float(np.abs(values[edge] - border_color(image)).mean())


def margin_contrast(image: Image.Image) -> float:
    """The mean absolute difference of the outermost pixels' median colour from that of a ring further in, in 0..1."""
    values = pixels(image)
    ring = np.zeros(values.shape[:2], bool)
    ring[_RING[0] : -_RING[0], _RING[0] : -_RING[0]] = True
    ring[_RING[1] : -_RING[1], _RING[1] : -_RING[1]] = False
    return float(np.abs(np.median(values[ring], axis=0) - border_color(image)).mean())


def background_of(image: Image.Image) -> str:
    """The name in ``COLORS`` that is nearest to the picture's border."""
    color = border_color(image)
    return min(COLORS, key=lambda name: float(np.square(color - np.array(COLORS[name]) / 255).sum()))


@dataclass(frozen=True)
class SubjectJudge:
    """Ranks subjects by their distance to a picture.

    Each subject is held in 27 sizes and places, as premultiplied colour and opacity at 32×32. Laid over the picture's
    own border colour, the nearest of them gives the subject's distance, so that neither jitter nor background counts.
    """

    subjects: tuple[Subject, ...]
    colors: Floats
    opacities: Floats

    @classmethod
    def of(cls, subjects: Sequence[Subject]) -> SubjectJudge:
        """The judge that knows these subjects."""
        placed = np.stack([_placements(subject.glyph) for subject in subjects])
        return cls(tuple(subjects), placed[..., :3] * placed[..., 3:], placed[..., 3:])

    def distances(self, image: Image.Image) -> Floats:
        """The mean squared difference of the picture from each subject's nearest placement."""
        small = _small(image.convert("RGB"))
        over = self.colors + (1 - self.opacities) * border_color(image)
        nearest: Floats = np.square(over - small).mean((2, 3, 4)).min(1)
        return nearest

    def ranking(self, image: Image.Image) -> list[Subject]:
        """The subjects, nearest first."""
        return [self.subjects[index] for index in np.argsort(self.distances(image))]

    def nearest(self, image: Image.Image) -> Subject:
        """The subject that the picture shows."""
        return self.ranking(image)[0]


def _placements(glyph: str) -> Floats:
    placed = [
        _small(place_glyph(Image.new("RGBA", (SIZE, SIZE)), glyph, 64 + dx, 64 + dy, 108 * scale))
        for scale in _SCALES
        for dx in _SHIFTS
        for dy in _SHIFTS
    ]
    return np.stack(placed)


def _small(image: Image.Image) -> Floats:
    return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32) / np.float32(255)


@dataclass(frozen=True)
class StyleJudge:
    """Tells styles apart by statistics of the corpus' renders: the mean and deviation of each style's."""

    models: dict[str, tuple[Floats, Floats]]

    @classmethod
    def through(cls, seen: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], count: int = 30) -> StyleJudge:
        """The judge that has seen ``count`` renders of each style through ``seen``.

        A model draws no sharper than its autoencoder, so ``seen`` is its reconstruction.
        """
        return cls({style: _fitted(style, seen, count) for style in STYLES})

    def style_of(self, image: Image.Image) -> str:
        """The style that makes the picture's statistics the most likely."""
        statistics = style_statistics(image)
        likelihoods = {
            style: float(-np.square((statistics - mean) / spread).sum() / 2 - np.log(spread).sum())
            for style, (mean, spread) in self.models.items()
        }
        return max(likelihoods, key=lambda style: likelihoods[style])

    def strangeness(self, image: Image.Image) -> float:
        """How far the picture's statistics are from the nearest style's, in deviations (root mean square)."""
        statistics = style_statistics(image)
        squares = [float(np.square((statistics - mean) / spread).mean()) for mean, spread in self.models.values()]
        return math.sqrt(min(squares))


def style_statistics(image: Image.Image) -> Floats:
    """Seven numbers that tell the styles apart, on a logarithmic scale.

    The contrast inside the blocks of pixel art, and how much stronger it is across their seams; the chroma, which a
    sketch lacks; the texture of the border, which brush strokes roughen; the strength of the strongest edges, which
    washes soften; the darkest channel of the deepest colours, which paper shines through; and how much the border
    differs from what is further in, where washes leave a margin of paper.
    """
    values = pixels(image)
    gray = values.mean(2)
    across = np.abs(np.diff(gray, axis=1))
    seams = across[:, BLOCK - 1 :: BLOCK].mean()
    inside = np.delete(across, np.s_[BLOCK - 1 :: BLOCK], axis=1).mean()
    numbers = (
        inside,
        seams / (inside + 0.002),
        (values.max(2) - values.min(2)).mean(),
        border_spread(image),
        np.quantile(across, 0.99),
        np.quantile(values.min(2), 0.05),
        margin_contrast(image),
    )
    logarithms: Floats = np.log(np.array(numbers, np.float32) + np.float32(0.02))
    return logarithms


def _fitted(style: str, seen: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], count: int) -> tuple[Floats, Floats]:
    rng = stream(style)
    scenes = [Scene(rng.choice(CORE_SUBJECTS), _paper(style, rng.choice(list(COLORS))), style) for _ in range(count)]
    renders = seen(np.stack([np.asarray(render(scene, rng)) for scene in scenes]))
    measured = np.stack([style_statistics(Image.fromarray(picture)) for picture in renders])
    return measured.mean(0), measured.std(0) + np.float32(0.15)


def _paper(style: str, background: str) -> str:
    return "white" if style == "sketch" else background
