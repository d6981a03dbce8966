"""An init picture of one shape for a job of another: cropped, padded, stretched, or the job takes its shape."""

from __future__ import annotations

import math

from PIL import Image, ImageOps

from farm.jobs.spec import MAX_SIDE, MIN_SIDE, Fit, ResolvedSpec
from farm.pictures.colour import to_srgb

_WORTH_TELLING = 0.01
"""Of a side. Less comes of rounding sizes to what a model can draw."""
_MOST_TOLD = 0.99
"""Something of every picture is left."""
_REDUCING_GAP = 3.0
"""A side a million times too long is averaged down to three times its new length first: the filter would need
gigabytes for it."""


def own_size(width: int, height: int, *, most: int, multiple: int) -> tuple[int, int]:
    """The size of a job that has the shape of a picture: in multiples of `multiple`, with at most `most` pixels.

    Small pictures are enlarged only until their short side is the smallest that a job may have; longer ones than fit
    are cut.
    """
    scale = max(min(1.0, math.sqrt(most / (width * height))), MIN_SIDE / min(width, height))
    short, long = (_rounded(scale * side, multiple) for side in sorted((width, height)))
    short = min(short, max(_rounded(MIN_SIDE, multiple), multiple * (math.isqrt(most) // multiple)))
    long = max(short, min(long, multiple * (most // (multiple * short))))
    return (short, long) if width < height else (long, short)


def _rounded(side: float, multiple: int) -> int:
    return multiple * round(min(max(side, MIN_SIDE), MAX_SIDE) / multiple)


def fit(picture: Image.Image, width: int, height: int, how: Fit) -> Image.Image:
    """`picture` in RGB and of this size, resized by Lanczos; untouched if it has the size already.

    `crop` cuts what is beyond the middle, `pad` repeats the outermost pixels, `stretch` changes the proportions. A job
    that took its size from the picture (`init`) has the picture's shape but for rounding, which is cropped.
    """
    return _fitted(to_srgb(picture)[0], width, height, how, Image.Resampling.LANCZOS)


def fit_mask(mask: Image.Image, width: int, height: int, how: Fit) -> Image.Image:
    """A mask (mode L) made to fit as its picture is, without the ringing of a sharper filter."""
    return _fitted(mask, width, height, how, Image.Resampling.BILINEAR)


def _fitted(picture: Image.Image, width: int, height: int, how: Fit, by: Image.Resampling) -> Image.Image:
    match how:
        case "crop" | "init":
            return ImageOps.fit(picture, (width, height), method=by)
        case "pad":
            return _padded(picture, width, height, by)
        case "stretch":
            return resized(picture, width, height, by)


def cut_off(spec: ResolvedSpec) -> str | None:
    """What of a job's init picture is not seen, in a sentence, or None."""
    image = spec.start.image
    if image is None or image.width is None or image.height is None or spec.start.fit not in ("crop", "init"):
        return None
    if spec.start.outpaint is not None:  # the picture is put back whole
        return None
    scale = max(spec.width / image.width, spec.height / image.height)
    lost = {
        "width": 1 - spec.width / (scale * image.width),
        "height": 1 - spec.height / (scale * image.height),
    }
    side = max(lost, key=lambda name: lost[name])
    if lost[side] < _WORTH_TELLING:
        return None
    return (
        f"{min(lost[side], _MOST_TOLD):.0%} of the init picture's {side} was cut off to make"
        f" {image.width}×{image.height} fit {spec.width}×{spec.height} (--fit pad or stretch shows all of it"
        + (", --fit init gives the job its shape)" if spec.start.fit == "crop" else ")")
    )


def padded_box(size: tuple[int, int], width: int, height: int) -> tuple[int, int, int, int]:
    """Where a picture of a size is on a page that it is padded to: left, top, right and bottom."""
    scale = min(width / size[0], height / size[1])
    inner_width, inner_height = min(width, max(1, round(scale * size[0]))), min(height, max(1, round(scale * size[1])))
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    return left, top, left + inner_width, top + inner_height


def _padded(picture: Image.Image, width: int, height: int, by: Image.Resampling) -> Image.Image:
    left, top, right, bottom = padded_box(picture.size, width, height)
    inner = resized(picture, right - left, bottom - top, by)
    page = Image.new(picture.mode, (width, height))
    page.paste(inner, (left, top))
    repeat_edges(page, (left, top, right, bottom))
    return page


def repeat_edges(page: Image.Image, inner: tuple[int, int, int, int]) -> None:
    """Fill a page around what is there at left, top, right and bottom with the outermost pixels of that."""
    left, top, right, bottom = inner
    _repeat_row(page, top, range(top))
    _repeat_row(page, bottom - 1, range(bottom, page.height))
    _repeat_column(page, left, range(left))
    _repeat_column(page, right - 1, range(right, page.width))


def _repeat_row(page: Image.Image, row: int, onto: range) -> None:
    if onto:
        page.paste(page.crop((0, row, page.width, row + 1)).resize((page.width, len(onto))), (0, onto.start))


def _repeat_column(page: Image.Image, column: int, onto: range) -> None:
    if onto:
        page.paste(page.crop((column, 0, column + 1, page.height)).resize((len(onto), page.height)), (onto.start, 0))


def resized(
    picture: Image.Image, width: int, height: int, by: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """A picture of another size; untouched if it has the size already."""
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), by, reducing_gap=_REDUCING_GAP)
