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
    long = max(short, min(long, multiple * (most // (multiple * short))))
    return (short, long) if width < height else (long, short)


def _rounded(side: float, multiple: int) -> int:
    return multiple * round(min(max(side, MIN_SIDE), MAX_SIDE) / multiple)


def fit(picture: Image.Image, width: int, height: int, how: Fit) -> Image.Image:
    """`picture` in RGB and of this size, resized by Lanczos; untouched if it has the size already.

    `crop` cuts what is beyond the middle, `pad` repeats the outermost pixels, `stretch` changes the proportions. A job
    that took its size from the picture (`init`) has the picture's shape but for rounding, which is cropped.
    """
    picture = to_srgb(picture)[0]
    match how:
        case "crop" | "init":
            return ImageOps.fit(picture, (width, height), method=Image.Resampling.LANCZOS)
        case "pad":
            return _padded(picture, width, height)
        case "stretch":
            return _resized(picture, width, height)


def cut_off(spec: ResolvedSpec) -> str | None:
    """What of a job's init picture is not seen, in a sentence, or None."""
    image = spec.start.image
    if image is None or image.width is None or image.height is None or spec.start.fit not in ("crop", "init"):
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


def _padded(picture: Image.Image, width: int, height: int) -> Image.Image:
    scale = min(width / picture.width, height / picture.height)
    inner = _resized(
        picture,
        min(width, max(1, round(scale * picture.width))),
        min(height, max(1, round(scale * picture.height))),
    )
    left, top = (width - inner.width) // 2, (height - inner.height) // 2
    page = Image.new("RGB", (width, height))
    page.paste(inner, (left, top))
    _repeat_row(page, top, range(top))
    _repeat_row(page, top + inner.height - 1, range(top + inner.height, height))
    _repeat_column(page, left, range(left))
    _repeat_column(page, left + inner.width - 1, range(left + inner.width, width))
    return page


def _repeat_row(page: Image.Image, row: int, onto: range) -> None:
    if onto:
        page.paste(page.crop((0, row, page.width, row + 1)).resize((page.width, len(onto))), (0, onto.start))


def _repeat_column(page: Image.Image, column: int, onto: range) -> None:
    if onto:
        page.paste(page.crop((column, 0, column + 1, page.height)).resize((len(onto), page.height)), (onto.start, 0))


def _resized(picture: Image.Image, width: int, height: int) -> Image.Image:
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP)
