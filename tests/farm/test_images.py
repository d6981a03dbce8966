"""Init images: what is read, and what is said of those that cannot be."""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from farm.errors import InvalidInput
from farm.images import MAX_BYTES, check_init, decode, read_init
from tests.pictures import enormous_png


def encoded(picture: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


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
