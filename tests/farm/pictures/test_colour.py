"""Pictures of every kind become the red, green and blue that a person sees."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms

from farm.errors import InvalidInput
from farm.pictures.colour import to_srgb
from farm.pictures.images import check_init, decode
from tests.pictures import (
    ADOBE_RGB_PRIMARIES,
    DISPLAY_P3_PRIMARIES,
    SRGB_PRIMARIES,
    adobe_to_linear,
    encoded,
    grey_profile,
    png_chunk,
    rgb_profile,
    seen_in_srgb,
    srgb_to_linear,
    with_chunks,
)

DISPLAY_P3 = rgb_profile(DISPLAY_P3_PRIMARIES, srgb_to_linear)
ADOBE_RGB = rgb_profile(ADOBE_RGB_PRIMARIES, adobe_to_linear)
SRGB = rgb_profile(SRGB_PRIMARIES, srgb_to_linear)
GREY = grey_profile(adobe_to_linear)


def pixel(picture: Image.Image) -> tuple[int, ...]:
    value = picture.getpixel((0, 0))
    assert isinstance(value, tuple)
    return value


def raw_png(bits: int, kind: int, sample: bytes, *chunks: bytes) -> bytes:
    """A PNG of one pixel, of a depth and a colour type that Pillow may not write."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, bits, kind, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(b"\0" + sample))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
@pytest.mark.parametrize(("value", "seen"), [(0, 0), (20_000, 78), (32_896, 128), (65_535, 255)])
def test_16_bits_are_scaled_by_their_range(mode: str, value: int, seen: int) -> None:
    assert pixel(to_srgb(Image.new(mode, (4, 4), value))[0]) == (seen,) * 3


def test_16_bits_of_grey_in_a_file() -> None:
    assert pixel(decode(encoded(Image.new("I;16", (8, 8), 20_000)), name="x")) == (78, 78, 78)


@pytest.mark.parametrize(
    ("mode", "color", "seen"),
    [
        ("1", 1, (255, 255, 255)),
        ("1", 0, (0, 0, 0)),
        ("L", 78, (78, 78, 78)),
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("RGBX", (10, 20, 30, 0), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (100, 200, 0, 128), (177, 227, 127)),
        ("RGBa", (50, 100, 0, 128), (177, 227, 127)),
        ("LA", (100, 128), (177, 177, 177)),
        ("La", (50, 128), (177, 177, 177)),
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
        ("CMYK", (0, 0, 0, 128), (127, 127, 127)),
        ("YCbCr", (76, 85, 255), (254, 0, 0)),
        ("HSV", (85, 255, 255), (0, 255, 0)),
        ("LAB", (128, 128, 128), (119, 119, 119)),
    ],
)
def test_every_kind_of_pixel_has_its_colour(mode: str, color: object, seen: tuple[int, ...]) -> None:
    shown, fault = to_srgb(Image.new(mode, (4, 4), color))  # type: ignore[arg-type]
    assert (shown.mode, fault) == ("RGB", None)
    assert all(abs(a - b) <= 1 for a, b in zip(pixel(shown), seen, strict=True)), pixel(shown)


@pytest.mark.parametrize("mode", ["P", "PA"])
def test_palettes_have_their_colours(mode: str) -> None:
    picture = Image.new("RGB", (4, 4), (10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE).convert(mode)
    assert pixel(to_srgb(picture)[0]) == (10, 20, 30)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_range_are_refused(mode: str) -> None:
    with pytest.raises(InvalidInput, match=rf"32 bits \(mode {mode}\).* 8 or 16 bits a channel"):
        to_srgb(Image.new(mode, (4, 4)))


TRANSPARENT = {
    "grey of 16 bits": raw_png(16, 0, struct.pack(">H", 20_000), png_chunk(b"tRNS", struct.pack(">H", 20_000))),
    "grey of 8 bits": raw_png(8, 0, b"\x50", png_chunk(b"tRNS", b"\0\x50")),
    "grey of 4 bits": raw_png(4, 0, b"\x50", png_chunk(b"tRNS", b"\0\x05")),
    "grey of 2 bits": raw_png(2, 0, b"\x40", png_chunk(b"tRNS", b"\0\x01")),
    "black and white": raw_png(1, 0, b"\0", png_chunk(b"tRNS", b"\0\0")),
    "colour of 8 bits": raw_png(8, 2, b"\1\2\3", png_chunk(b"tRNS", b"\0\1\0\2\0\3")),
    "colour of 16 bits": raw_png(16, 2, b"\1\2\3\4\5\6", png_chunk(b"tRNS", b"\1\2\3\4\5\6")),
    "palette": raw_png(8, 3, b"\0", png_chunk(b"PLTE", b"\1\2\3\4\5\6"), png_chunk(b"tRNS", b"\0")),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_a_transparent_value_is_white(kind: str) -> None:
    assert pixel(decode(TRANSPARENT[kind], name="x")) == (255, 255, 255)


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (raw_png(16, 0, struct.pack(">H", 20_001), png_chunk(b"tRNS", struct.pack(">H", 20_000))), 78),
        (raw_png(16, 0, struct.pack(">H", 19_999), png_chunk(b"tRNS", struct.pack(">H", 20_000))), 78),
        (raw_png(16, 0, struct.pack(">H", 65_535), png_chunk(b"tRNS", b"\0\0")), 255),
        (raw_png(16, 0, b"\0\0", png_chunk(b"tRNS", b"\xff\xff")), 0),
        (raw_png(4, 0, b"\x50", png_chunk(b"tRNS", b"\0\x55")), 85),
        (raw_png(2, 0, b"\x40", png_chunk(b"tRNS", b"\0\x02")), 85),
    ],
)
def test_other_values_are_seen(data: bytes, seen: int) -> None:
    assert pixel(decode(data, name="x")) == (seen,) * 3


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    ("profile", "primaries", "to_linear"),
    [(DISPLAY_P3, DISPLAY_P3_PRIMARIES, srgb_to_linear), (ADOBE_RGB, ADOBE_RGB_PRIMARIES, adobe_to_linear)],
)
@pytest.mark.parametrize("color", [(180, 100, 60), (60, 140, 90), (128, 128, 128), (255, 255, 255), (0, 0, 0)])
def test_a_colour_profile_is_followed(
    format: str, profile: bytes, primaries: object, to_linear: object, color: tuple[int, ...]
) -> None:
    lossless = {"quality": 100, "subsampling": 0} if format == "JPEG" else {"lossless": True}
    data = encoded(Image.new("RGB", (16, 16), color), format, icc_profile=profile, **lossless)
    expected = seen_in_srgb(color, primaries, to_linear)  # type: ignore[arg-type]
    image = check_init(data, name="x")
    assert not image.warnings
    assert all(abs(a - b) <= 3 for a, b in zip(pixel(decode(data, name="x")), expected, strict=True)), expected


def test_the_colours_of_the_profiles_differ_from_srgbs() -> None:
    """So that a profile that is passed over does not go unseen above."""
    for primaries, to_linear in ((DISPLAY_P3_PRIMARIES, srgb_to_linear), (ADOBE_RGB_PRIMARIES, adobe_to_linear)):
        red, _, _ = seen_in_srgb((180, 100, 60), primaries, to_linear)
        assert abs(red - 180) > 9


@pytest.mark.parametrize("profile", [SRGB, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()])
def test_a_picture_in_srgb_keeps_its_pixels(profile: bytes) -> None:
    picture = Image.effect_noise((64, 64), 90).convert("RGB")
    assert decode(encoded(picture, icc_profile=profile), name="x").tobytes() == picture.tobytes()


def test_transparency_and_a_profile() -> None:
    data = encoded(Image.new("RGBA", (8, 8), (180, 100, 60, 128)), icc_profile=DISPLAY_P3)
    opaque = seen_in_srgb((180, 100, 60), DISPLAY_P3_PRIMARIES, srgb_to_linear)
    assert all(abs(a - (b + 255) / 2) <= 2 for a, b in zip(pixel(decode(data, name="x")), opaque, strict=True))


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_with_a_profile_of_grey(mode: str) -> None:
    color = {"L": 100, "LA": (100, 255), "I;16": 25_700}[mode]
    shown = decode(encoded(Image.new(mode, (8, 8), color), icc_profile=GREY), name="x")  # type: ignore[arg-type]
    expected = seen_in_srgb((100, 100, 100), SRGB_PRIMARIES, adobe_to_linear)
    assert all(abs(a - b) <= 1 for a, b in zip(pixel(shown), expected, strict=True))


def test_grey_with_a_profile_of_a_screen() -> None:
    shown = decode(encoded(Image.new("L", (8, 8), 100), icc_profile=ADOBE_RGB), name="x")
    expected = seen_in_srgb((100, 100, 100), ADOBE_RGB_PRIMARIES, adobe_to_linear)
    assert all(abs(a - b) <= 1 for a, b in zip(pixel(shown), expected, strict=True))


def compressed_profile(profile: bytes) -> bytes:
    return png_chunk(b"iCCP", b"name\0\0" + zlib.compress(profile))


def plain(**options: Any) -> bytes:
    return encoded(Image.new("RGB", (8, 8), (180, 100, 60)), **options)


PLAIN = plain()
FAULTY = {
    "no profile at all": (plain(icc_profile=b"nonsense"), "is damaged"),
    "cut short": (plain(icc_profile=DISPLAY_P3[:300]), "is damaged"),
    "of grey": (plain(icc_profile=GREY), "is for GRAY, but the picture is RGB"),
    "another checksum": (with_chunks(PLAIN, compressed_profile(DISPLAY_P3)[:-1] + b"?"), "is damaged"),
    "not compressed": (with_chunks(PLAIN, png_chunk(b"iCCP", b"name\0\0" + DISPLAY_P3)), "is damaged"),
    "empty": (with_chunks(PLAIN, png_chunk(b"iCCP", b"")), "is damaged"),
    "enormous": (with_chunks(PLAIN, compressed_profile(bytes(9 * 2**20))), "has more than 8 MiB"),
}


@pytest.mark.parametrize("case", FAULTY)
def test_a_profile_that_cannot_be_used_is_told_and_passed_over(case: str) -> None:
    data, said = FAULTY[case]
    assert pixel(decode(data, name="x")) == (180, 100, 60)
    assert check_init(data, name="a.png").warnings == (
        f"the colour profile of a.png {said}: its colours are taken as sRGB",
    )


def test_a_profile_of_two_megabytes_is_followed() -> None:
    """Longer by a tag that nobody reads, as the tables of printers' profiles are."""
    large = bytearray(DISPLAY_P3 + bytes(2 * 2**20))
    large[:4] = struct.pack(">I", len(large))
    data = with_chunks(PLAIN, compressed_profile(bytes(large)))
    assert not check_init(data, name="x").warnings
    expected = seen_in_srgb((180, 100, 60), DISPLAY_P3_PRIMARIES, srgb_to_linear)
    assert all(abs(a - b) <= 1 for a, b in zip(pixel(decode(data, name="x")), expected, strict=True))


def test_cmyk_without_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "print.jpeg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=100)
    red, green, blue = pixel(decode(path.read_bytes(), name="x"))
    assert red > 250
    assert max(green, blue) < 5
