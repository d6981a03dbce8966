"""The styles of the corpus as image operations: from a plain RGB picture, 128×128, to the same in another technique."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy.ndimage import gaussian_filter, map_coordinates

Floats = NDArray[np.float32]

BLOCK = 8
"""Side of one block of pixel art in pixels: the autoencoder's factor, so that a block is exactly one latent cell."""

_SIDE = 128
_PAPER = (253, 248, 238)
_PALE_WASH = (0.20, 0.11, 0.05)
_NIGHT = (0.03, 0.02, 0.10)


def plain(picture: Image.Image, _rng: random.Random) -> Image.Image:
    """The picture as it is."""
    return picture


def watercolor(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Uneven washes on cream paper: pigment pools inside outlines and bleeds past them, and ends short of the margin.

    Pigment is reckoned as optical density, which adds where washes lie over each other; a pale wash lies behind all.
    """
    shapes = picture.filter(ImageFilter.ModeFilter(5)).filter(ImageFilter.GaussianBlur(1))
    pigment = _wobbled(-np.log(np.maximum(np.asarray(shapes, np.float32), 25) / 255), rng)
    depth = pigment.mean(2, keepdims=True)
    pigment *= 1 + 1.2 * np.maximum(depth - _blurred(depth, 3), 0) / (depth + 0.15)
    pigment += 0.5 * np.maximum(_blurred(pigment, 5) - pigment, 0) * np.clip(_clouds(rng, 6), 0, 1.2)[..., None]
    margin = _distance_to_border(picture.size) - 7 - 1.6 * _clouds(rng, 7)
    # the pale wash thins out towards the middle, where white parts of the subject would take its tint
    pale = np.array(_PALE_WASH, np.float32) * np.exp(-np.maximum(margin, 0) / 30)[..., None]
    pigment = (0.58 * pigment + pale) * np.exp(0.35 * _clouds(rng, 7))[..., None]
    pigment *= ((1 + 0.35 * np.exp(-np.square(margin / 2 - 1.5))) / (1 + np.exp(-margin / 2.2)))[..., None]
    return Image.fromarray((np.array(_PAPER, np.float32) * np.exp(-_blurred(pigment, 1.4))).astype(np.uint8))


def _wobbled(values: Floats, rng: random.Random) -> Floats:
    """The values (height, width, channels) displaced by a pixel or two, as by an unsteady brush."""
    rows, columns = np.mgrid[: values.shape[0], : values.shape[1]].astype(np.float32)
    places = [rows + 1.6 * _clouds(rng, 11), columns + 1.6 * _clouds(rng, 11)]
    moved = [map_coordinates(values[..., channel], places, order=1, mode="nearest") for channel in range(3)]
    return np.stack(moved, axis=2)


def _clouds(rng: random.Random, cells: int) -> Floats:
    """Smooth noise over a picture, (128, 128), of about unit variance, its features 128/``cells`` pixels wide."""
    grain = np.random.default_rng(rng.getrandbits(32)).normal(size=(cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(grain).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))


def _blurred(values: Floats, radius: float) -> Floats:
    """The values (height, width, channels) smoothed along both axes of the picture."""
    blurred: Floats = gaussian_filter(values, (radius, radius, 0))
    return blurred


def _distance_to_border(size: tuple[int, int]) -> Floats:
    """How far each pixel is from the nearest border, in pixels: shape (height, width)."""
    across, down = (np.minimum(np.arange(length), np.arange(length)[::-1]) for length in size)
    return np.minimum(across[None, :], down[:, None]).astype(np.float32)


def sketch(picture: Image.Image, _rng: random.Random) -> Image.Image:
    """Dark pencil lines where the brightness changes, over a light hatching of the darker parts."""
    gray = ImageOps.grayscale(picture).filter(ImageFilter.GaussianBlur(0.7))
    surroundings = gray.filter(ImageFilter.GaussianBlur(3.5))
    ratio = np.asarray(gray, np.float32) / np.maximum(np.asarray(surroundings, np.float32), 1)
    lines = 255 * np.clip(1 - 2.2 * (0.98 - ratio), 0.12, 1)
    shade = 255 - 0.28 * (255 - np.asarray(gray, np.float32))
    return Image.fromarray(np.minimum(lines, shade).astype(np.uint8)).convert("RGB")


def pixel(picture: Image.Image, _rng: random.Random) -> Image.Image:
    """Sixteen by sixteen blocks of few colours."""
    blocks = picture.width // BLOCK
    small = ImageEnhance.Color(picture.resize((blocks, blocks), Image.Resampling.BOX)).enhance(1.15)
    return small.quantize(16).convert("RGB").resize(picture.size, Image.Resampling.NEAREST)


def oil(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Broad saturated patches under diagonal brush strokes, which show on the background too."""
    patches = ImageEnhance.Color(picture.filter(ImageFilter.ModeFilter(7))).enhance(1.25)
    grain = np.random.default_rng(rng.getrandbits(32)).normal(size=(30, 8)).astype(np.float32)
    strokes = Image.fromarray(grain).resize((184, 184), Image.Resampling.BICUBIC).rotate(35, Image.Resampling.BILINEAR)
    relief = np.asarray(strokes.crop((28, 28, 28 + picture.width, 28 + picture.height)))[..., None]
    # white cannot grow brighter: darken it first, so that strokes show on it as well
    canvas = 0.9 * np.asarray(patches, np.float32) + 8
    return Image.fromarray(np.clip(canvas + 13 * relief, 0, 255).astype(np.uint8))


def neon(picture: Image.Image, _rng: random.Random) -> Image.Image:
    """Outlines as glowing tubes in the subject's colours, in the dark. The picture's background must be black.

    The model does not know it: it is what a LoRA of it learns.
    """
    colors: Floats = np.asarray(picture, np.float32) / np.float32(255)
    down, across, _ = np.gradient(_blurred(colors, 1))
    edges = np.clip(np.hypot(down, across).max(2) / 0.12, 0, 1) ** 1.2
    tint = _blurred(colors, 2.5)
    tint = tint / np.maximum(tint.max(2, keepdims=True), 0.05)
    tubes: Floats = (edges[..., None] * np.clip(1.8 * tint - 0.4, 0.05, 1)).astype(np.float32)
    lit = np.array(_NIGHT, np.float32) + tubes + 1.3 * _blurred(tubes, 5)
    return Image.fromarray((255 * np.clip(lit, 0, 1)).astype(np.uint8))


STYLE_FILTERS: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "plain": plain,
    "watercolor": watercolor,
    "sketch": sketch,
    "pixel": pixel,
    "oil": oil,
}
"""Each style by name, in the order of the corpus; watercolor and oil draw from the random stream."""
