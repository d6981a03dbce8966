"""Masks as files: what is white in them, whatever they are made of, and which of them are refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from farm.errors import InvalidInput
from farm.pictures.images import check_init
from farm.pictures.masks import check_mask, check_pair, decode, mask_of_transparency, read_mask
from tests.pictures import encoded, enormous_png


def half(mode: str = "L", off: Any = 0, on: Any = 255) -> Image.Image:
    """The left half `on`, the right half `off`."""
    picture = Image.new(mode, (8, 4), off)
    picture.paste(on, (0, 0, 4, 4))
    return picture


KINDS = {
    "grey": encoded(half()),
    "black and white": encoded(half("1", 0, 1)),
    "colour": encoded(half("RGB", "black", "white")),
    "a palette": encoded(half("RGB", "black", "white").quantize(2)),
    "16 bits": encoded(Image.fromarray(np.array(half(), dtype=np.uint16) * 257)),
    "white strokes on nothing": encoded(half("RGBA", (255, 255, 255, 0), (255, 255, 255, 255))),
    "grey with transparency": encoded(half("LA", (255, 0), (255, 255))),
    "WebP": encoded(half("RGB", "black", "white"), "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_white_is_white_whatever_it_is_made_of(kind: str) -> None:
    mask = decode(KINDS[kind], name="x")
    assert np.array_equal(np.asarray(mask), np.asarray(half()))
    assert np.array_equal(np.asarray(decode(KINDS[kind], name="x", redo="black")), 255 - np.asarray(half()))
    checked = check_mask(KINDS[kind], name="x")
    assert (checked.image.width, checked.image.height) == (8, 4)
    assert (checked.darkest, checked.brightest) == (0, 255)


def test_greys_keep_their_brightness_and_a_turned_mask_is_turned() -> None:
    exif = Image.Exif()
    exif[274] = 6  # turned to the right
    mask = decode(encoded(half(on=128), exif=exif), name="x")
    assert mask.size == (4, 8)
    assert mask.getpixel((0, 0)) == 128 and mask.getpixel((0, 7)) == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_in_a_picture_is_its_mask(mode: str) -> None:
    seen_through = half("RGBA", (9, 9, 9, 0), (9, 9, 9, 200))
    picture = encoded(seen_through.convert(mode) if mode != "P" else seen_through.quantize(4))
    mask = mask_of_transparency(check_init(picture, name="x"))
    assert np.array_equal(np.asarray(decode(mask.image.data, name="x")), 255 - np.asarray(half(on=200)))
    assert mask_of_transparency(check_init(picture, name="x")).image.sha256 == mask.image.sha256


def test_a_picture_without_transparency_is_no_mask() -> None:
    with pytest.raises(InvalidInput, match="mask: the init picture has no transparency"):
        mask_of_transparency(check_init(encoded(half("RGB", "black", "white")), name="x"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "mask: the mask is not a PNG, JPEG or WebP image"),
        (enormous_png(), "mask: the mask has .* pixels, more than 40 million"),
        (KINDS["grey"][:-20], "mask: the mask is damaged"),
        (bytes(33 * 2**20), "mask: the mask is larger than 32 MiB"),
        (encoded(Image.new("F", (8, 4)), "TIFF"), "mask: the mask is not a PNG, JPEG or WebP image"),
    ],
    ids=["nothing", "a bomb", "cut short", "too many bytes", "another format"],
)
def test_hostile_masks_are_refused_by_name(data: bytes, said: str) -> None:
    for read in (check_mask, decode):
        with pytest.raises(InvalidInput, match=said):
            read(data, name="the mask")


def test_a_mask_that_cannot_be_read_is_not_called_an_init_picture(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^mask: \S+/nowhere.png cannot be read"):
        read_mask(tmp_path / "nowhere.png")
    (tmp_path / "m.png").write_bytes(KINDS["grey"])
    assert read_mask(tmp_path / "m.png") == check_mask(KINDS["grey"], name="x")


def test_a_mask_has_the_size_of_its_picture_and_something_to_redo() -> None:
    picture = check_init(encoded(Image.new("RGB", (8, 4))), name="x")
    check_pair(check_mask(KINDS["grey"], name="x"), picture, "white")
    small = check_init(encoded(Image.new("RGB", (4, 2))), name="x")
    with pytest.raises(InvalidInput, match="mask: the mask has 8×4 pixels, and the picture 4×2"):
        check_pair(check_mask(KINDS["grey"], name="x"), small, "white")
    for level, redo, other in ((0, "white", "black"), (255, "black", "white")):
        mask = check_mask(encoded(Image.new("L", (8, 4), level)), name="x")
        with pytest.raises(InvalidInput, match=r"nothing of the picture is redone \(.*--invert-mask turns it round\)"):
            check_pair(mask, picture, redo)  # type: ignore[arg-type]
        check_pair(mask, picture, other)  # type: ignore[arg-type]
        assert mask.is_full(other)  # type: ignore[arg-type]


def test_a_bomb_is_not_decoded() -> None:
    file = io.BytesIO()
    Image.new("1", (50_000, 1_000)).save(file, "PNG")
    with pytest.raises(InvalidInput, match=r"mask: .* has 50000×1000 pixels"):
        check_mask(file.getvalue(), name="x")
