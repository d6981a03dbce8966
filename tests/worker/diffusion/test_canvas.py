"""What of a picture is rendered, and that all the rest of it comes back as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from farm.errors import InvalidInput
from farm.jobs.request import JobRequest
from farm.jobs.spec import InitReference, ResolvedSpec
from worker.diffusion.canvas import Canvas, area, given, lay_out, put_back, unseen

REFERENCE = InitReference(sha256="0" * 64, extension="png")
NEW = (10, 200, 30)

Pixels = NDArray[np.uint8]


def noise(width: int, height: int) -> Image.Image:
    """A picture of which every pixel is another, so that none can be moved or resized unseen."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def mask_of(width: int, height: int, *box: int, grey: int = 255) -> Image.Image:
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=grey)
    return mask


def spec_of(picture: Image.Image, *, width: int = 64, height: int = 64, **fields: Any) -> ResolvedSpec:
    reference = REFERENCE.model_copy(update={"width": picture.width, "height": picture.height})
    request = JobRequest.parse({"prompt": "a cat", "seed": 1, "init": "a.png", **fields})
    (spec,) = request.specs(reference, default_model="tiny", mask=reference if "mask" in fields else None)
    return ResolvedSpec.of(spec, width=width, height=height, scale=7.5)


def rendered(spec: ResolvedSpec) -> Pixels:
    return np.full((spec.height, spec.width, 3), NEW, dtype=np.uint8)


def made(picture: Image.Image, mask: Image.Image | None, **fields: Any) -> tuple[Canvas, ResolvedSpec, Pixels]:
    spec = spec_of(picture, **(fields if mask is None else {**fields, "mask": "m.png"}))
    canvas = lay_out(spec.start, picture, mask)
    return canvas, spec, put_back(canvas, spec, rendered(spec))


def test_without_a_blur_every_pixel_is_either_new_or_the_pictures_own() -> None:
    picture, mask = noise(64, 64), mask_of(64, 64, 10, 20, 33, 41)
    _, _, pixels = made(picture, mask, mask_blur=0)
    is_new = np.asarray(mask) == 255
    assert (pixels[is_new] == NEW).all()
    assert np.array_equal(pixels[~is_new], np.asarray(picture)[~is_new])


def test_the_seam_is_blended_and_beyond_it_nothing_changes() -> None:
    picture, mask = noise(64, 64), mask_of(64, 64, 0, 0, 32, 64)
    canvas, _, pixels = made(picture, mask, mask_blur=3)
    own, seam = np.asarray(picture), np.asarray(canvas.seam)
    assert np.array_equal(pixels[seam == 0], own[seam == 0])
    assert (pixels[seam == 255] == NEW).all()
    edge = seam[32]
    assert edge[:20].min() == 255 and edge[44:].max() == 0
    assert (np.diff(edge[20:44].astype(int)) <= 0).all() and len(np.unique(edge)) > 6
    at = np.argwhere((seam > 100) & (seam < 155))[0]
    share = seam[tuple(at)] / 255
    expected = share * np.array(NEW) + (1 - share) * own[tuple(at)]
    assert np.abs(pixels[tuple(at)] - expected).max() <= 1


def test_grey_is_blended_by_how_bright_it_is() -> None:
    picture = Image.new("RGB", (64, 64), (100, 100, 100))
    _, _, pixels = made(picture, mask_of(64, 64, 0, 0, 32, 64, grey=51), mask_blur=0)
    assert pixels[0, 0].tolist() == [82, 120, 86]
    assert pixels[0, 40].tolist() == [100, 100, 100]


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_mask_is_fitted_as_its_picture_is(fit: str) -> None:
    """A red square in a blue picture, which the mask covers: in the job's size it covers it too."""
    picture = Image.new("RGB", (120, 80), "blue")
    picture.paste((255, 0, 0), (40, 20, 80, 60))
    spec = spec_of(picture, mask="m.png", fit=fit, mask_blur=0)
    canvas = lay_out(spec.start, picture, mask_of(120, 80, 40, 20, 80, 60))
    fitted, mask = given(canvas, spec)
    assert fitted.size == mask.size == (64, 64)
    red = np.asarray(fitted)[..., 0] > 128
    assert (red != (np.asarray(mask) > 128)).mean() < 0.02
    pixels = put_back(canvas, spec, rendered(spec))
    kept = np.asarray(mask) == 0
    assert np.array_equal(pixels[kept], np.asarray(fitted)[kept])


@pytest.mark.parametrize("box", [(90, 60, 110, 80), (0, 0, 9, 9), (150, 70, 160, 120), (10, 50, 150, 55)])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (128, 64), (64, 96)])
def test_only_what_is_masked_is_rendered_and_put_back_where_it_was(
    box: tuple[int, int, int, int], width: int, height: int
) -> None:
    picture, mask = noise(160, 120), mask_of(160, 120, *box)
    canvas, spec, pixels = made(picture, mask, only_masked=6, mask_blur=0, width=width, height=height)
    found = area(canvas, spec)
    assert found is not None
    left, top, right, bottom = found
    assert left <= max(0, box[0] - 6) and top <= max(0, box[1] - 6)
    assert right >= min(160, box[2] + 6) and bottom >= min(120, box[3] + 6)
    assert 0 <= left < right <= 160 and 0 <= top < bottom <= 120
    if right - left < 160 and bottom - top < 120:
        assert (right - left) / (bottom - top) == pytest.approx(width / height, abs=0.1)
    is_new = np.asarray(mask) == 255
    assert pixels.shape == (120, 160, 3)
    assert (pixels[is_new] == NEW).all()
    assert np.array_equal(pixels[~is_new], np.asarray(picture)[~is_new])


def test_what_is_rendered_alone_comes_back_in_its_place() -> None:
    """What is given is what was there, so given back it changes nothing, wherever the box had to be padded too."""
    picture = Image.linear_gradient("L").resize((160, 40)).convert("RGB")
    spec = spec_of(picture, mask="m.png", only_masked=4, mask_blur=0)
    canvas = lay_out(spec.start, picture, mask_of(160, 40, 8, 0, 150, 40))
    fitted, mask = given(canvas, spec)
    assert np.asarray(mask)[32, 32] == 255
    back = put_back(canvas, spec, np.asarray(fitted)).astype(int)
    assert np.abs(back - np.asarray(picture)).max() <= 12


def test_the_box_has_room_for_the_seam() -> None:
    picture, mask = noise(160, 120), mask_of(160, 120, 80, 60, 90, 70)
    canvas, spec, pixels = made(picture, mask, only_masked=0, mask_blur=5)
    left, top, right, bottom = area(canvas, spec) or (0, 0, 0, 0)
    outside = np.asarray(canvas.seam).copy()
    outside[top:bottom, left:right] = 0
    assert not outside.any()
    assert not np.array_equal(pixels[55:58, 80:90], np.asarray(picture)[55:58, 80:90])


@pytest.mark.parametrize(
    ("outpaint", "size", "corner"),
    [("left=24,top=8", (88, 56), (24, 8)), ("right=40", (104, 48), (0, 0)), ("bottom=17,right=3", (67, 65), (0, 0))],
)
def test_a_picture_that_grows_is_kept_to_the_bit(outpaint: str, size: tuple[int, int], corner: tuple[int, int]) -> None:
    picture = noise(64, 48)
    canvas, spec, pixels = made(picture, None, outpaint=outpaint)
    assert (canvas.picture.size, pixels.shape) == (size, (size[1], size[0], 3))
    (left, top), inner = corner, np.zeros(pixels.shape[:2], dtype=bool)
    inner[top : top + 48, left : left + 64] = True
    assert np.array_equal(pixels[inner].reshape(48, 64, 3), np.asarray(picture))
    assert (pixels[~inner] == NEW).all()
    fitted, mask = given(canvas, spec)
    assert fitted.size == mask.size == (64, 64)


def test_a_picture_that_grows_can_have_a_mask_of_its_own() -> None:
    picture = noise(64, 64)
    _, _, pixels = made(picture, mask_of(64, 64, 8, 8, 16, 16), outpaint="left=32", mask_blur=0)
    assert (pixels[8:16, 40:48] == NEW).all() and (pixels[:, :32] == NEW).all()
    assert np.array_equal(pixels[16:, 32:], np.asarray(picture)[16:])


def test_colours_run_into_what_is_filled() -> None:
    picture = Image.new("RGB", (64, 64), (200, 40, 40))
    picture.paste((0, 0, 255), (24, 24, 40, 40))
    spec = spec_of(picture, mask="m.png", fill="blur", mask_blur=0)
    fitted, _ = given(lay_out(spec.start, picture, mask_of(64, 64, 24, 24, 40, 40)), spec)
    pixels = np.asarray(fitted).astype(int)
    assert np.abs(pixels - (200, 40, 40)).max() <= 8
    original = spec_of(picture, mask="m.png", mask_blur=0)
    untouched, _ = given(lay_out(original.start, picture, mask_of(64, 64, 24, 24, 40, 40)), original)
    assert np.array_equal(np.asarray(untouched), np.asarray(picture))


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (mask_of(32, 64, 0, 0, 9, 9), "mask: the mask has 32×64 pixels, and the picture 64×64"),
        (Image.new("L", (64, 64)), "mask: nothing of the picture is redone"),
    ],
)
def test_a_mask_that_was_forged_is_refused(mask: Image.Image, said: str) -> None:
    picture = noise(64, 64)
    with pytest.raises(InvalidInput, match=said):
        lay_out(spec_of(picture, mask="m.png").start, picture, mask)


@pytest.mark.parametrize("fields", [{}, {"only_masked": 8}, {"outpaint": "left=16", "mask_blur": 4}])
def test_the_seam_of_what_is_transparent_blends_only_colours_that_are_there(fields: dict[str, Any]) -> None:
    picture, alpha = Image.new("RGBA", (64, 64), (200, 40, 40, 255)), Image.new("L", (64, 64))
    ImageDraw.Draw(alpha).ellipse((16, 16, 47, 47), fill=255)
    alpha = alpha.resize((32, 32), Image.Resampling.BOX).resize((64, 64), Image.Resampling.BILINEAR)  # soft edges
    picture.putalpha(alpha)
    mask = alpha.point(lambda level: 255 - level)
    canvas, _, pixels = made(picture, mask, **fields)
    shares = (pixels[..., 0].astype(float) - 10) / 190  # of the picture's red
    between = np.array(NEW) + shares[..., None] * (np.array((200, 40, 40)) - NEW)
    assert np.abs(pixels - between).max() <= 3, "no third colour"
    assert ((shares > 0.2) & (shares < 0.8)).any()
    assert np.abs(np.asarray(canvas.picture).astype(int) - (200, 40, 40)).max() <= 8


def test_what_is_transparent_and_stays_is_white() -> None:
    picture = Image.new("RGBA", (64, 64), (200, 40, 40, 255))
    picture.paste((9, 9, 9, 0), (0, 0, 64, 32))
    canvas, _, pixels = made(picture, mask_of(64, 64, 0, 0, 32, 64), mask_blur=0)
    assert (pixels[:32, 32:] == 255).all() and (pixels[32:, 32:] == (200, 40, 40)).all()
    assert np.abs(np.asarray(canvas.picture)[:, :32].astype(int) - (200, 40, 40)).max() <= 2
    nothing = Image.new("RGBA", (64, 64), (9, 9, 9, 0))
    assert (np.asarray(made(nothing, mask_of(64, 64, 0, 0, 32, 64))[0].picture) == 255).all()


DOT = (30, 30, 31, 31)


@pytest.mark.parametrize(
    ("mask", "fields", "most"),
    [
        (mask_of(64, 64, *DOT), {"only_masked": 0}, "no pixel has more than 1% "),
        (mask_of(64, 64, 30, 30, 34, 34, grey=20), {"mask_blur": 0}, "no pixel has more than 8% "),
        (mask_of(64, 64, *DOT), {"mask_blur": 0}, None),
        (mask_of(64, 64, *DOT), {"mask_blur": 0, "only_masked": 0}, None),
        (mask_of(64, 64, 20, 20, 40, 40), {}, None),
        (mask_of(64, 64, 20, 20, 40, 40, grey=60), {}, None),
        (mask_of(1_024, 1_024, 500, 500, 504, 504), {"mask_blur": 0}, "no pixel has more than"),  # fitted to 64×64
        (mask_of(1_024, 1_024, 500, 500, 504, 504), {"mask_blur": 0, "only_masked": 9}, None),
    ],
)
def test_that_next_to_nothing_is_redone_is_said(mask: Image.Image, fields: dict[str, Any], most: str | None) -> None:
    picture = Image.new("RGB", mask.size)
    canvas, spec, pixels = made(picture, mask, **fields)
    said = unseen(canvas, spec)
    assert (said is None) == (most is None) and (most or "") in (said or "")
    assert (said is None) == (pixels.max() > 0.1 * max(NEW))
    assert said is None or ("--mask-blur 0" in said) == bool(spec.start.mask_blur)


def test_a_canvas_too_large_is_refused() -> None:
    picture = noise(64, 64)
    lay_out(spec_of(picture, outpaint="top=1984").start, picture, None)
    with pytest.raises(InvalidInput, match="outpaint: the picture would have 64×2,049 pixels"):
        lay_out(spec_of(picture, outpaint="top=1985").start, picture, None)
