"""Films of pictures: H.264, animated WebP, and strips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from farm.pictures.video import strip, write_animation, write_video

RED, GREEN, BLUE = "red", "lime", "blue"


def plain(colour: str, size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.new("RGB", size, colour)


def frames_of_a_video(path: Path) -> list[Image.Image]:
    av = pytest.importorskip("av")
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate, stream.pix_fmt) == ("h264", 12, "yuv420p")
        return [frame.to_image() for frame in video.decode(stream)]


def frames_of_an_animation(path: Path) -> list[Image.Image]:
    found = []
    with Image.open(path) as animation:
        assert (animation.format, animation.info["loop"]) == ("WEBP", 0)
        for index in range(getattr(animation, "n_frames", 1)):
            animation.seek(index)
            animation.load()
            assert animation.info["duration"] == 83
            found.append(animation.convert("RGB"))
    return found


KINDS = pytest.mark.parametrize(
    ("write", "read"),
    [(write_video, frames_of_a_video), (write_animation, frames_of_an_animation)],
    ids=["H.264", "WebP"],
)
Write = Callable[[list[Image.Image], Path], None]
Read = Callable[[Path], list[Image.Image]]


@KINDS
def test_a_film_has_every_picture_in_order(write: Write, read: Read, tmp_path: Path) -> None:
    write([plain(colour) for colour in (RED, GREEN, BLUE)], tmp_path / "unfinished.part")
    found = read(tmp_path / "unfinished.part")
    assert [frame.size for frame in found] == [(64, 48)] * 3
    for frame, strongest in zip(found, range(3), strict=True):
        pixel = frame.getpixel((30, 20))
        assert isinstance(pixel, tuple) and pixel.index(max(pixel)) == strongest


@KINDS
def test_all_take_the_first_ones_size_with_even_sides(write: Write, read: Read, tmp_path: Path) -> None:
    write([plain(RED, (65, 49)), plain(BLUE, (20, 200))], tmp_path / "film")
    assert [frame.size for frame in read(tmp_path / "film")] == [(64, 48), (64, 48)]


@pytest.mark.parametrize(
    ("number", "most", "chosen"), [(5, 24, [0, 1, 2, 3, 4]), (5, 3, [0, 2, 4]), (100, 4, [0, 33, 66, 99]), (1, 24, [0])]
)
def test_a_strip_shows_both_ends_and_even_steps_between(number: int, most: int, chosen: list[int]) -> None:
    pictures = [Image.new("RGB", (20, 10), (2 * index, 0, 0)) for index in range(number)]
    page = strip(pictures, most=most, height=10)
    assert page.size == (20 * len(chosen), 10)
    assert [page.getpixel((20 * place + 10, 5)) for place in range(len(chosen))] == [(2 * n, 0, 0) for n in chosen]
