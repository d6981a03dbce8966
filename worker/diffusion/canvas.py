"""The canvas of a job with a mask: its init picture, grown if that is asked, and what of it is redone; and how what was
rendered is put back into it, so that all the rest is the picture's own, to the bit.

Without `only_masked` or `outpaint` the canvas is fitted to the job's size, and has it in the end. With either it keeps
its own size, and a part of it (an *area*) is rendered at the job's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from farm.jobs.spec import ResolvedSpec, Start
from farm.pictures.colour import to_srgb
from farm.pictures.masks import check_grown, check_size, nothing_is_redone
from worker.diffusion.fitting import fit, fit_mask, padded_box, repeat_edges, resized

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels."""

_WHITE = 255
_HARDLY_SEEN = 0.1
"""Of a rendered pixel: where no more of it comes into the picture, that looks as it did."""
_SURROUNDINGS = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2))
"""How far colours run into what is masked, in pixels, and how often: from afar, and then from ever nearer."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """A picture (RGB), the mask of what is redone, and the `seam`: the mask with soft edges (both L). Of one size."""

    picture: Image.Image
    mask: Image.Image
    seam: Image.Image


def lay_out(start: Start, picture: Image.Image, mask: Image.Image | None) -> Canvas:
    """The canvas of a picture and its mask, which is white where the picture is redone.

    A picture in RGBA is laid over white where it stays as it is. Where it is redone, and so in the seam, it is over the
    colours around instead, for that white is nothing that anybody drew.

    Raises `InvalidInput` for a mask of another size, one by which nothing is redone, and a canvas that is too large.
    """
    if mask is None:
        mask = Image.new("L", picture.size)
    check_size(mask, picture)
    picture = flattened(picture, mask)
    if grown := start.outpaint:
        left, top = grown.left, grown.top
        size = (picture.width + left + grown.right, picture.height + top + grown.bottom)
        check_grown(*size)
        inner = (left, top, left + picture.width, top + picture.height)
        page, whole = Image.new("RGB", size), Image.new("L", size, _WHITE)
        page.paste(picture, inner[:2])
        repeat_edges(page, inner)
        whole.paste(mask, inner[:2])
        picture, mask = page, whole
    if mask.getbbox() is None:
        raise nothing_is_redone()
    return Canvas(picture, mask, mask.filter(ImageFilter.GaussianBlur(start.mask_blur)) if start.mask_blur else mask)


def flattened(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture in RGB: over white where the mask is black, and elsewhere over the colours around."""
    over_white = to_srgb(picture)[0]
    if picture.mode != "RGBA" or picture.getchannel("A").getbbox() is None:
        return over_white
    return Image.composite(_over_colours_around(picture), over_white, mask.point(lambda level: _WHITE * (level > 0)))


def _over_colours_around(picture: Image.Image) -> Image.Image:
    """A picture in RGBA, some of it opaque, over the colours nearest to what is transparent: those of ever smaller
    copies of it, in which every pixel is the mean of the opaque ones of four."""
    copies = [picture]
    while max(copies[-1].size) > 1:
        smaller = copies[-1].reduce(2)
        smaller.putalpha(smaller.getchannel("A").point(lambda level: min(_WHITE, 4 * level)))
        copies.append(smaller)
    around = copies.pop().convert("RGB").convert("RGBA")
    for copy in reversed(copies):
        around = Image.alpha_composite(around.resize(copy.size, Image.Resampling.BILINEAR), copy)
    return around.convert("RGB")


def given(canvas: Canvas, spec: ResolvedSpec) -> tuple[Image.Image, Image.Image]:
    """The picture that a job starts from and its mask, at the job's size."""
    picture, mask, how = canvas.picture, canvas.mask, spec.start.fit
    if (box := area(canvas, spec)) is not None:
        picture, mask, how = picture.crop(box), mask.crop(box), "pad"
    if spec.start.fill == "blur":
        picture = surrounded(picture, mask)
    return fit(picture, spec.width, spec.height, how), fit_mask(mask, spec.width, spec.height, how)


def put_back(canvas: Canvas, spec: ResolvedSpec, pixels: np.ndarray) -> np.ndarray:
    """The canvas [height, width, 3] with what was rendered in it, of the job's size, where it is redone."""
    rendered = Image.fromarray(pixels)
    box = area(canvas, spec)
    if box is None:
        own = fit(canvas.picture, spec.width, spec.height, spec.start.fit)
        return np.asarray(Image.composite(rendered, own, _blended(canvas, spec)))
    size = (box[2] - box[0], box[3] - box[1])
    whole = canvas.picture.copy()
    part = resized(rendered.crop(padded_box(size, spec.width, spec.height)), *size)
    whole.paste(part, box[:2], canvas.seam.crop(box))
    return np.asarray(whole)


def unseen(canvas: Canvas, spec: ResolvedSpec) -> str | None:
    """That next to nothing of what is rendered comes into the picture, in a sentence; None where enough does."""
    brightest = int(np.asarray(_blended(canvas, spec)).max())
    if brightest > _HARDLY_SEEN * _WHITE:
        return None
    blur = f" and its seam is blurred by a radius of {spec.start.mask_blur} pixels" if spec.start.mask_blur else ""
    return (
        f"next to nothing of the picture was redone: what is masked is tiny or nearly black{blur}, so that no pixel"
        f" has more than {brightest / _WHITE:.0%} of what was rendered (a larger or whiter mask changes more"
        + (", and so does --mask-blur 0)" if blur else ")")
    )


def _blended(canvas: Canvas, spec: ResolvedSpec) -> Image.Image:
    """The seam as the result has it: of its size, which may be another than the canvas's."""
    if spec.start.keeps_size:
        return canvas.seam
    return fit_mask(canvas.seam, spec.width, spec.height, spec.start.fit)


def area(canvas: Canvas, spec: ResolvedSpec) -> Box | None:
    """What of the canvas is rendered, to be put back where it was; None if all of it is fitted to the job.

    The box of what is redone, with its padding and its seam, grown to the job's shape as far as there is picture.
    """
    start, (width, height) = spec.start, canvas.picture.size
    if start.only_masked is None:
        return None if start.outpaint is None else (0, 0, width, height)
    left, top, right, bottom = canvas.seam.getbbox() or (0, 0, width, height)
    padding = start.only_masked
    left, right = max(0, left - padding), min(width, right + padding)
    top, bottom = max(0, top - padding), min(height, bottom + padding)
    across = max(right - left, round((bottom - top) * spec.width / spec.height))
    down = max(bottom - top, round((right - left) * spec.height / spec.width))
    left, right = _widened(left, right, across, width)
    top, bottom = _widened(top, bottom, down, height)
    return left, top, right, bottom


def _widened(begin: int, end: int, length: int, most: int) -> tuple[int, int]:
    """A stretch of a side about where it was, of a length, within 0 to `most`."""
    length = min(length, most)
    begin = min(max(0, begin - (length - (end - begin)) // 2), most - length)
    return begin, begin + length


def surrounded(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture, with the colours around what is masked run into it, as A1111's fill does it."""
    kept = Image.new("RGBa", picture.size)
    kept.paste(picture.convert("RGBA").convert("RGBa"), mask=mask.point(lambda level: _WHITE - level))
    made = Image.new("RGBA", picture.size)
    for radius, times in _SURROUNDINGS:
        run = kept.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            made.alpha_composite(run)
    return Image.composite(made.convert("RGB"), picture, mask)
