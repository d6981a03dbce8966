"""Init images: whatever the bytes are, they are a picture within the bounds, or refused in one line."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from farm.errors import InvalidInput
from farm.pictures.images import MAX_BYTES, MAX_PIXELS, InitImage, check_init, decode
from farm.pictures.sheet import tile_of
from tests.fuzzing import bounded_memory, fuzz
from tests.pictures import DISPLAY_P3_PRIMARIES, grey_profile, rgb_profile, srgb_to_linear


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    with bounded_memory():
        yield


def checked(data: bytes) -> InitImage | None:
    """What a picture is, or None if it is refused as it should be. Any other exception is the test's."""
    try:
        image = check_init(data, name="x")
        picture = decode(data, name="x")
    except InvalidInput as error:
        assert error.field == "init"
        assert len(str(error)) < 300
        return None
    assert picture.mode == "RGB"
    assert picture.size == (image.width, image.height)
    assert 1 <= image.width * image.height <= MAX_PIXELS
    assert image.extension in ("png", "jpeg", "webp")
    return image


def encoded(format: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((24, 16), 80).convert(mode).save(file, format, **options)
    return file.getvalue()


def with_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    exif.get_ifd(0x8769)[0x9286] = b"a comment"
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    return exif


FRAMES = [Image.new("RGB", (24, 16), (shade, 0, 0)) for shade in range(0, 250, 50)]
SEEDS = (
    encoded("PNG"),
    encoded("PNG", "P", transparency=0),
    encoded("PNG", "RGBA"),
    encoded("PNG", exif=with_exif(), icc_profile=b"a profile" * 50, dpi=(1, 1)),
    encoded("PNG", save_all=True, append_images=FRAMES),
    encoded("JPEG", exif=with_exif(), icc_profile=b"a profile" * 50),
    encoded("JPEG", "CMYK", progressive=True),
    encoded("JPEG", "L", comment=b"a comment"),
    encoded("MPO", save_all=True, append_images=FRAMES),
    encoded("WEBP", "RGBA", exif=with_exif()),
    encoded("WEBP", lossless=True),
    encoded("WEBP", save_all=True, append_images=FRAMES),
    encoded("GIF", "P"),
    encoded("TIFF"),
    encoded("BMP"),
)
PROFILES = (rgb_profile(DISPLAY_P3_PRIMARIES, srgb_to_linear), grey_profile(srgb_to_linear))
changes = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 120), st.integers(0, 5_000)),
        st.one_of(
            st.binary(min_size=1, max_size=4), st.sampled_from((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
        ),
        st.sampled_from(("replace", "replace", "replace", "insert", "cut", "truncate", "double")),
    ),
    min_size=1,
    max_size=6,
)


def spoil(data: bytes, how: list[tuple[int, bytes, str]]) -> bytes:
    for where, value, what in how:
        at = where % (len(data) + 1)
        match what:
            case "replace":
                data = data[:at] + value + data[at + len(value) :]
            case "insert":
                data = data[:at] + value + data[at:]
            case "cut":
                data = data[:at] + data[at + len(value) * 4 :]
            case "truncate":
                data = data[: max(at, 20)]
            case "double":
                data = data[:at] + data
    return data


@pytest.mark.parametrize("seed", range(12))
def test_the_pictures_are_ones(seed: int) -> None:
    assert checked(SEEDS[seed])


@fuzz(600)
@given(st.sampled_from(SEEDS), changes)
def test_spoilt_pictures(seed: bytes, how: list[tuple[int, bytes, str]]) -> None:
    checked(spoil(seed, how))


def mended(data: bytes) -> bytes:
    """A PNG whose checksums are right again, so that what is in it is looked at."""
    out, at = data[:8], 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 8 + length > len(data):
            break
        chunk = data[at + 4 : at + 8 + length]
        out += data[at : at + 8 + length] + zlib.crc32(chunk).to_bytes(4, "big")
        at += 12 + length
    return out


@fuzz(320)
@given(st.sampled_from(SEEDS[:5]), changes)
def test_spoilt_pngs_with_right_checksums(seed: bytes, how: list[tuple[int, bytes, str]]) -> None:
    checked(mended(spoil(seed, how)))


@fuzz(120)
@given(st.sampled_from(PROFILES), changes)
def test_spoilt_colour_profiles(profile: bytes, how: list[tuple[int, bytes, str]]) -> None:
    """Read or passed over, never a reason to lose the picture."""
    assert checked(encoded("PNG", icc_profile=spoil(profile, how)))


@fuzz(120)
@given(
    st.binary(max_size=400),
    st.sampled_from((b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"II*\0")),
)
def test_bytes(data: bytes, beginning: bytes) -> None:
    checked(beginning + data)


@fuzz(160)
@given(st.binary(max_size=300), st.sampled_from((b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"")))
def test_exif_of_anything(data: bytes, beginning: bytes) -> None:
    exif = b"Exif\0\0" + beginning + data
    jpeg = encoded("JPEG")
    assert checked(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])


sides = st.one_of(
    st.integers(0, 70_000), st.sampled_from((1, 6_324, 16_383, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1))
)


@fuzz(80)
@given(sides, sides, st.sampled_from((1, 2, 4, 8, 16)), st.integers(0, 6), st.integers(0, 2), st.binary(max_size=40))
def test_any_size_that_a_png_can_say(width: int, height: int, bits: int, kind: int, lacing: int, data: bytes) -> None:
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, lacing)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    parts = (struct.pack(">I", len(body)) + name + body + b"0000" for name, body in chunks)
    checked(mended(b"\x89PNG\r\n\x1a\n" + b"".join(parts)))


@fuzz(50)
@given(sides, sides)
def test_any_size_that_a_jpeg_or_a_webp_can_say(width: int, height: int) -> None:
    jpeg = bytearray(encoded("JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", height % 2**16, width % 2**16)
    checked(bytes(jpeg))
    webp = bytearray(SEEDS[11])
    at = webp.index(b"VP8X")
    webp[at + 12 : at + 18] = (width % 2**24).to_bytes(3, "little") + (height % 2**24).to_bytes(3, "little")
    checked(bytes(webp))


BOMBS = {
    "text": (b"zTXt", b"a\0\0"),
    "profile": (b"iCCP", b"a\0\0"),
    "international text": (b"iTXt", b"a\0\1\0\0\0"),
    "pixels": (b"IDAT", b""),
}


@cache
def bomb() -> bytes:
    """A hundred kilobytes that become a hundred megabytes."""
    return zlib.compress(bytes(100_000_000), 9)


@pytest.mark.parametrize("of", BOMBS)
def test_bombs(of: str) -> None:
    name, before = BOMBS[of]
    body = before + bomb()
    png = SEEDS[0]
    end = png.index(b"IDAT") - 4
    checked(mended(png[:end] + (struct.pack(">I", len(body)) + name + body + b"0000") * 20 + png[end:]))


def test_what_is_too_long_is_not_looked_at() -> None:
    assert checked(SEEDS[0] + bytes(MAX_BYTES)) is None


@fuzz(80)
@given(st.text(max_size=300))
def test_a_sheet_takes_pictures_with_any_words_in_them(text: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    from farm.pictures.provenance import SPEC_KEY

    info = PngInfo()
    info.add_itxt(SPEC_KEY, text.encode("utf-8", "replace").decode())
    assert tile_of(encoded("PNG", pnginfo=info), name="x.png").title
