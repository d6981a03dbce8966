"""Pictures one after the other: an H.264 video where PyAV is installed, as it is on workers, else an animated WebP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image

FRAMES_PER_SECOND = 12
_CONSTANT_RATE_FACTOR = "18"  # of x264: visually lossless
_WEBP_QUALITY = 90


def can_encode() -> bool:
    """Whether PyAV is there to make an H.264 video."""
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


class Video:
    """An H.264 file that every browser plays: yuv420p, 12 frames a second, index first. Needs PyAV.

    Use it as a context manager, or close it. Sides are even numbers of pixels.
    """

    def __init__(self, path: Path, *, width: int, height: int) -> None:
        import av

        self.path = path
        self._container: Any = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        self._stream = self._container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": _CONSTANT_RATE_FACTOR, "preset": "medium", "threads": "1"}
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self.close()

    def add(self, frame: Image.Image) -> None:
        """The next frame, an RGB picture of the video's size."""
        import av

        self._container.mux(self._stream.encode(av.VideoFrame.from_image(frame)))

    def close(self) -> None:
        """End the file. May be called twice."""
        if self._open:
            self._open = False
            self._container.mux(self._stream.encode(None))
            self._container.close()


def write_video(pictures: Iterable[Image.Image], path: Path) -> None:
    """An H.264 video of the pictures, of which there is one at least; all take the first one's shape."""
    frames = _alike(pictures)
    first = next(frames)
    with Video(path, width=first.width, height=first.height) as video:
        video.add(first)
        for frame in frames:
            video.add(frame)


def write_animation(pictures: Iterable[Image.Image], path: Path) -> None:
    """The same as an animated WebP, which browsers show as a picture and play again and again."""
    frames = _alike(pictures)
    first = next(frames)
    first.save(
        *(path, "WEBP"),
        save_all=True,
        append_images=frames,
        duration=1000 // FRAMES_PER_SECOND,
        loop=0,
        quality=_WEBP_QUALITY,
    )


def strip(pictures: Iterable[Image.Image], *, most: int = 24, height: int = 256) -> Image.Image:
    """Up to `most` of the pictures side by side, the first and the last among them, as evenly spaced as can be."""
    pictures = list(pictures)
    number = min(most, len(pictures))
    chosen = [pictures[round(place * (len(pictures) - 1) / max(1, number - 1))] for place in range(number)]
    shown = [
        one.resize((max(1, round(one.width * height / one.height)), height), Image.Resampling.LANCZOS) for one in chosen
    ]
    page = Image.new("RGB", (sum(one.width for one in shown), height))
    left = 0
    for one in shown:
        page.paste(one, (left, 0))
        left += one.width
    return page


def _alike(pictures: Iterable[Image.Image]) -> Iterator[Image.Image]:
    """RGB pictures of the first one's size, less a row or a column where that is odd."""
    size: tuple[int, int] | None = None
    for picture in pictures:
        size = size or (max(2, picture.width // 2 * 2), max(2, picture.height // 2 * 2))
        frame = picture.convert("RGB")
        yield frame if frame.size == size else frame.resize(size, Image.Resampling.LANCZOS)
