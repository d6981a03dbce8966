"""The styles of the corpus as image operations: from a plain RGB picture, 128×128, to the same in another technique."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

BLOCK = 8
"""Side of one block of pixel art in pixels: the autoencoder's factor, so that a block is exactly one latent cell."""


def plain(picture: Image.Image, _rng: random.Random) -> Image.Image:
    """The picture as it is."""
    return picture


def watercolor(picture: Image.Image, _rng: random.Random) -> Image.Image:
    """Flat thin washes on cream paper, whose pigment gathers at the edges."""
    wash = picture.filter(ImageFilter.ModeFilter(5)).filter(ImageFilter.GaussianBlur(1.2))
    rims = wash.convert("L").filter(ImageFilter.FIND_EDGES).filter(ImageFilter.GaussianBlur(1.0))
    rims = _without_border(rims).point([255 - min(110, 3 * level) for level in range(256)])
    paper = Image.new("RGB", picture.size, (255, 250, 238))
    return ImageChops.multiply(Image.blend(wash, paper, 0.32), rims.convert("RGB"))


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


def _without_border(edges: Image.Image) -> Image.Image:
    """Blank the outermost pixels, where Pillow's edge filter repeats its input."""
    inner = Image.new("L", edges.size, 0)
    inner.paste(edges.crop((3, 3, edges.width - 3, edges.height - 3)), (3, 3))
    return inner


STYLE_FILTERS: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "plain": plain,
    "watercolor": watercolor,
    "sketch": sketch,
    "pixel": pixel,
    "oil": oil,
}
"""Each style by name, in the order of the corpus; only oil draws from the random stream."""
