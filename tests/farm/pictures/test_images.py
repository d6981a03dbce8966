"""Init images: what is read, and what is said of those that cannot be."""

from __future__ import annotations

import hashlib
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from farm.errors import InvalidInput
from farm.pictures.images import MAX_BYTES, check_init, decode, read_init
from farm.pictures.metadata import read_text
from tests.pictures import encoded, enormous_png, png_chunk, with_chunks


def plain(width: int = 64, height: int = 48, color: str = "teal") -> Image.Image:
    return Image.new("RGB", (width, height), color)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_are_read(format: str) -> None:
    data = encoded(plain(), format)
    image = check_init(data, name="x")
    assert (image.width, image.height, image.extension) == (64, 48, format.lower())
    assert image.sha256 == hashlib.sha256(data).hexdigest()


def truncated(format: str) -> Callable[[], bytes]:
    noise = Image.effect_noise((256, 256), 80).convert("RGB")
    return lambda: encoded(noise, format)[:2_000]


@pytest.mark.long
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b"", "x is not a PNG, JPEG or WebP image"),
        (lambda: b"<svg/>", "x is not a PNG, JPEG or WebP image"),
        (lambda: encoded(plain(), "BMP"), "x is not a PNG, JPEG or WebP image"),
        (lambda: encoded(plain(), "GIF"), "x is not a PNG, JPEG or WebP image"),
        (lambda: encoded(plain(), "TIFF"), "x is not a PNG, JPEG or WebP image"),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", "x is not a PNG, JPEG or WebP image"),
        (enormous_png, "x has over 178,956,970 pixels, more than 40 million"),
        (lambda: encoded(plain(8_000, 5_001), "PNG"), "x has 8000×5001 pixels, more than 40 million"),
        (truncated("PNG"), "x is damaged: "),
        (truncated("JPEG"), "x is damaged: "),
        (truncated("WEBP"), "x is damaged: "),
        (lambda: bytes(MAX_BYTES + 1), "x is larger than 32 MiB"),
    ],
)
def test_what_is_no_whole_image_is_refused(make: Callable[[], bytes], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_init(make(), name="x")
    assert caught.value.field == "init"
    assert caught.value.reason.startswith(message)


def test_a_missing_file_and_a_folder_are_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nothing\.png cannot be read: No such file or directory"):
        read_init(tmp_path / "nothing.png")
    with pytest.raises(InvalidInput, match="is not a file"):
        read_init(tmp_path)


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 2**20)
    with pytest.raises(InvalidInput, match="has 33 MiB, more than 32"):
        read_init(path)


def test_exif_rotation_is_applied() -> None:
    picture = plain(64, 32)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    data = encoded(picture, "JPEG", exif=exif)
    assert decode(data, name="x").size == (32, 64)
    assert (check_init(data, name="x").width, check_init(data, name="x").height) == (32, 64)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(format: str) -> None:
    data = encoded(plain(), format, save_all=True, append_images=[plain(color="red")], lossless=True)
    assert decode(data, name="x").getpixel((0, 0)) == (0, 128, 128)


def test_a_file_that_is_larger_than_it_says_is_not_read_whole(tmp_path: Path) -> None:
    """Files of /proc and the like have no size."""
    endless = tmp_path / "endless.png"
    endless.symlink_to("/dev/zero")
    with pytest.raises(InvalidInput, match="is not a file"):
        read_init(endless)
    with pytest.raises(InvalidInput, match="is not a PNG"):
        read_init(Path("/proc/self/maps") if sys.platform == "linux" else Path(__file__))


def test_exif_that_cannot_be_read_is_passed_over_in_silence(recwarn: pytest.WarningsRecorder) -> None:
    data = encoded(plain(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 50)
    assert check_init(data, name="x").width == 64
    assert not recwarn.list


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(mode: str) -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode)
    assert decode(encoded(clear, "PNG"), name="x").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16"])
def test_other_pixel_kinds_become_rgb(mode: str) -> None:
    picture = Image.new("I;16", (8, 8)) if mode == "I;16" else plain(8, 8).convert(mode)
    assert decode(encoded(picture, "PNG"), name="x").mode == "RGB"


def png_text(kind: bytes, text: bytes, *, keyword: bytes = b"workflow") -> bytes:
    """A chunk of text: Latin-1, the same compressed, or UTF-8 compressed."""
    between = {b"tEXt": b"\0", b"zTXt": b"\0\0", b"iTXt": b"\0\1\0\0\0"}[kind]
    return png_chunk(kind, keyword + between + (text if kind == b"tEXt" else zlib.compress(text, 9)))


LONG = b'{"nodes": ' + b"[1]," * 400_000 + b"}"
BROKEN = b"?" * 4  # in place of a checksum
METADATA = {
    "long text": png_text(b"tEXt", LONG),
    "long compressed text": png_text(b"zTXt", LONG),
    "long international text": png_text(b"iTXt", LONG),
    "many texts": png_text(b"zTXt", bytes(2**20)) * 100,
    "text with a wrong checksum": png_text(b"tEXt", b"x")[:-4] + BROKEN,
    "text of an unknown compression": png_chunk(b"zTXt", b"a\0\7x"),
    "text without a keyword's end": png_chunk(b"iTXt", b"a"),
    "EXIF with a wrong checksum": png_chunk(b"eXIf", b"II*\0\x08\0\0\0")[:-4] + BROKEN,
    "EXIF of nonsense": png_chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 50),
    "enormous EXIF": png_chunk(b"eXIf", bytes(4 * 2**20)),
    "a short time": png_chunk(b"tIME", b"\0"),
    "short physical dimensions": png_chunk(b"pHYs", b"\0"),
    "short gamma": png_chunk(b"gAMA", b"\0"),
    "short chromaticities": png_chunk(b"cHRM", b"\0"),
    "an animation of no frames": png_chunk(b"acTL", b"\0"),
    "a private chunk": png_chunk(b"prVt", bytes(100)),
}


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("what", METADATA)
def test_what_else_a_png_holds_does_no_harm(what: str, before: bytes) -> None:
    data = with_chunks(encoded(plain()), METADATA[what], before=before)
    image = check_init(data, name="x")
    assert (image.width, image.height, image.warnings) == (64, 48, ())
    assert decode(data, name="x").getpixel((0, 0)) == (0, 128, 128)


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT"])
def test_a_picture_that_was_changed_is_damaged(kind: bytes) -> None:
    """Decoders make black of the rest, and say nothing."""
    data = bytearray(encoded(Image.effect_noise((64, 48), 90)))
    at = data.index(kind) + len(kind) + 2
    data[at] ^= 0x10
    with pytest.raises(
        InvalidInput, match=rf"x is damaged: a part of it \({kind.decode()}\) is cut short, or was changed"
    ):
        check_init(bytes(data), name="x")


def jpeg_segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


SEGMENTS = {
    "further pictures that are not there": jpeg_segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\0\0"),
    "a comment": jpeg_segment(0xFE, bytes(60_000)) * 20,
    "XMP": jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"<" * 60_000),
    "a broken thumbnail": jpeg_segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\x0c\0\0\xff\xff\xff\xff"),
    "EXIF of nonsense": jpeg_segment(0xE1, b"Exif\0\0" + b"\xff" * 300),
    "two EXIFs": jpeg_segment(0xE1, b"Exif\0\0II*\0") * 2,
    "a profile of which parts are missing": jpeg_segment(0xE2, b"ICC_PROFILE\0\1\3" + bytes(100)),
    "filling": b"\xff" * 9,
}


@pytest.mark.parametrize("what", SEGMENTS)
def test_what_else_a_jpeg_holds_does_no_harm(what: str) -> None:
    whole = encoded(plain(), "JPEG")
    data = whole[:2] + SEGMENTS[what] + whole[2:]
    assert check_init(data, name="x").extension == "jpeg"
    assert decode(data, name="x").tobytes() == decode(whole, name="x").tobytes()


def test_of_a_phones_two_pictures_the_first_is_taken() -> None:
    data = encoded(plain(), "MPO", save_all=True, append_images=[plain(color="red")])
    assert check_init(data, name="x").extension == "jpeg"
    red, green, blue = decode(data, name="x").getpixel((0, 0))  # type: ignore[misc]
    assert (red < 10, green > 120, blue > 120) == (True, True, True)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_every_turn_that_exif_can_say(format: str, turn: int) -> None:
    """A picture whose left upper corner alone is red, turned away, comes back."""
    upright = plain(64, 32)
    upright.paste("red", (0, 0, 16, 16))
    away = {
        **{1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180},
        **{4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90},
        **{7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270},
    }[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    turned = upright if away is None else upright.transpose(away)
    shown = decode(encoded(turned, format, exif=exif, quality=100), name="x")
    assert shown.size == (64, 32)
    assert shown.getpixel((4, 4))[0] > 200  # type: ignore[index]
    assert max(shown.getpixel(corner)[0] for corner in ((60, 4), (4, 28), (60, 28))) < 50  # type: ignore[index]


def test_one_text_of_a_png_is_read() -> None:
    plain_text = png_chunk(b"iTXt", b"spec\0\0\0\0\0" + "é🦊".encode())
    assert read_text(with_chunks(encoded(plain()), METADATA["long text"], plain_text), "spec") == "é🦊"
    assert read_text(with_chunks(encoded(plain()), png_text(b"iTXt", b"packed", keyword=b"spec")), "spec") == "packed"
    for other in (
        plain_text[:-4] + BROKEN,
        png_chunk(b"iTXt", b"spec\0\0\0"),
        png_chunk(b"iTXt", b"spec\0\0\0\0\0\xff"),
    ):
        assert read_text(with_chunks(encoded(plain()), other), "spec") is None
    assert read_text(encoded(plain(), "JPEG"), "spec") is None


def test_a_text_is_bounded() -> None:
    bomb = with_chunks(encoded(plain()), png_text(b"iTXt", bytes(100_000_000), keyword=b"spec"))
    assert read_text(bomb, "spec") is None
