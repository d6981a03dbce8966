"""A job's trace as files: numbers as JSON lines, frames as JPEG, and an H.264 video of the frames.

Written by the thread that waits for the job, so that the engine never waits for a disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image

from farm.spec import TraceLevel
from worker.engine.request import Pixels, StepRecord

FRAMES_PER_SECOND = 12
_JPEG_QUALITY = 92
_CONSTANT_RATE_FACTOR = "18"  # of x264: visually lossless


@dataclass(frozen=True)
class TraceFile:
    """One file of a trace and the object name it is published under."""

    name: str
    path: Path
    content_type: str


class TraceWriter:
    """Writes one attempt's trace into an empty folder. Use it as a context manager: leaving closes the files."""

    def __init__(self, folder: Path, level: TraceLevel) -> None:
        self._folder = folder
        self._level = level
        self._files: list[TraceFile] = []
        self._lines = (folder / "trace.jsonl").open("w") if level != "none" else None
        self._video: _Video | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self.close()

    def add(self, record: StepRecord, frame: Pixels | None) -> None:
        """Write down a step: its numbers, and the frame [height, 2·width, 3] at the levels that keep frames."""
        if self._lines is not None:
            self._lines.write(json.dumps(asdict(record)) + "\n")
        if frame is not None:
            self._add_frame(record.step, frame)

    def close(self) -> None:
        """End the files. May be called twice."""
        if self._lines is not None:
            self._lines.close()
        if self._video is not None:
            self._video.close()

    def files(self) -> Iterator[TraceFile]:
        """The finished files, after `close`."""
        if self._lines is not None:
            yield TraceFile("trace.jsonl", self._folder / "trace.jsonl", "application/jsonl")
        yield from self._files
        if self._video is not None:
            yield TraceFile("trace.mp4", self._video.path, "video/mp4")

    def _add_frame(self, step: int, frame: Pixels) -> None:
        path = self._folder / f"{step:04d}.jpeg"
        Image.fromarray(frame, mode="RGB").save(path, "JPEG", quality=_JPEG_QUALITY)
        self._files.append(TraceFile(f"trace/{path.name}", path, "image/jpeg"))
        if self._level == "video":
            if self._video is None:
                self._video = _Video(self._folder / "trace.mp4", width=frame.shape[1], height=frame.shape[0])
            self._video.add(frame)


class _Video:
    """An H.264 file that every browser plays: yuv420p, 12 frames a second, index first."""

    def __init__(self, path: Path, *, width: int, height: int) -> None:
        import av

        self.path = path
        self._container: Any = av.open(str(path), "w", options={"movflags": "+faststart"})
        self._stream = self._container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": _CONSTANT_RATE_FACTOR, "preset": "medium", "threads": "1"}
        self._open = True

    def add(self, frame: Pixels) -> None:
        import av

        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

    def close(self) -> None:
        if self._open:
            self._open = False
            self._container.mux(self._stream.encode(None))
            self._container.close()
