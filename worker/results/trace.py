"""A job's trace as files: numbers as JSON lines, frames as JPEG, and an H.264 video of the frames.

Written by the thread that waits for the job, so that the engine never waits for a disk.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from PIL import Image

from farm.jobs.spec import ResolvedSpec, TraceLevel
from farm.pictures.video import Video
from worker.engine.request import Pixels, StepRecord
from worker.results.finished import Artifact

_JPEG_QUALITY = 92


_NUMBERS = "trace.jsonl"
_MAX_LINE = 4_096
_FRAME = re.compile(r"trace/(\d{4})\.jpeg")
_START = "trace/start.jpeg"


def check_so_far(files: Mapping[str, bytes], spec: ResolvedSpec) -> None:
    """Raise `ValueError` unless `files` are what `TraceWriter.so_far` can have given for a job.

    They were in the bucket, where others may have put them. A frame's size is looked at before its pixels.
    """
    wanted = {"none": (), "numbers": (_NUMBERS,)}.get(spec.trace.level)
    for name, data in files.items():
        frame = _FRAME.fullmatch(name)
        if (wanted is not None and name not in wanted) or (name not in (_NUMBERS, _START) and frame is None):
            raise ValueError(f"a job with the trace '{spec.trace.level}' keeps no {name!r:.40}")
        if name == _NUMBERS:
            _check_numbers(data, spec)
        else:
            if frame is not None and not spec.start.step <= int(frame[1]) < spec.steps:
                raise ValueError(f"{name} belongs to no step of the job")
            _check_frame(data, (2 * spec.width, spec.height))


def _check_numbers(data: bytes, spec: ResolvedSpec) -> None:
    lines = data.splitlines()
    if len(lines) > spec.steps_to_do or any(len(line) > _MAX_LINE for line in lines):
        raise ValueError(f"{_NUMBERS} is longer than a trace of {spec.steps_to_do} steps")
    if not all(isinstance(json.loads(line), dict) for line in lines):
        raise ValueError(f"{_NUMBERS} has a line that is not a JSON object")


def _check_frame(data: bytes, size: tuple[int, int]) -> None:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
            is_one = picture.size == size and picture.mode == "RGB"
            if is_one:
                picture.load()
    except Exception as error:  # what a decoder makes of hostile bytes
        raise ValueError(f"a frame is damaged: {error!s:.100}") from error
    if not is_one:
        raise ValueError(f"a frame is not a picture of {size[0]}×{size[1]} in colour")


class TraceWriter:
    """Writes one attempt's trace into an empty folder. Use it as a context manager: leaving closes the files.

    `so_far` are the files of an earlier attempt that this one goes on from, checked by `check_so_far`.
    The video shows the frames as the JPEG files have them, so it is the same whether it was made in one go or not.
    """

    def __init__(self, folder: Path, level: TraceLevel, so_far: Mapping[str, bytes] | None = None) -> None:
        self._folder = folder
        self._level = level
        self._start: Artifact | None = None
        self._frames: list[Artifact] = []
        self._lines = (folder / _NUMBERS).open("wb") if level != "none" else None
        self._video: Video | None = None
        for name, data in sorted((so_far or {}).items()):
            self._take_up(name, data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self.close()

    def add_start(self, frame: Pixels) -> None:
        """Keep the noised picture [height, 2·width, 3] that the job starts from."""
        path = self._folder / Path(_START).name
        _write_jpeg(frame, path)
        self._start = Artifact(_START, "image/jpeg", path)

    def add(self, record: StepRecord, frame: Pixels | None) -> None:
        """Write down a step: its numbers, and the frame [height, 2·width, 3] at the levels that keep frames."""
        if self._lines is not None:
            self._lines.write(json.dumps(vars(record)).encode() + b"\n")
        if frame is not None:
            path = self._frame_path(record.step)
            _write_jpeg(frame, path)
            self._add_frame(path)

    def so_far(self) -> dict[str, bytes]:
        """The files written so far except the video, by name."""
        if self._lines is None:
            return {}
        self._lines.flush()
        numbers = (self._folder / _NUMBERS).read_bytes()
        return {_NUMBERS: numbers, **{picture.name: picture.read() for picture in self._pictures}}

    def close(self) -> None:
        """End the files. May be called twice."""
        if self._lines is not None:
            self._lines.close()
        if self._video is not None:
            self._video.close()

    def files(self) -> Iterator[Artifact]:
        """The finished files, after `close`."""
        if self._lines is not None:
            yield Artifact(_NUMBERS, "application/jsonl", self._folder / _NUMBERS)
        yield from self._pictures
        if self._video is not None:
            yield Artifact("trace.mp4", "video/mp4", self._video.path)

    @property
    def _pictures(self) -> list[Artifact]:
        return [*([self._start] if self._start else []), *self._frames]

    def _take_up(self, name: str, data: bytes) -> None:
        if self._lines is not None and name == _NUMBERS:
            self._lines.write(data)
        elif self._lines is not None and name == _START:
            path = self._folder / Path(_START).name
            path.write_bytes(data)
            self._start = Artifact(_START, "image/jpeg", path)
        elif self._lines is not None and (match := _FRAME.fullmatch(name)):
            path = self._frame_path(int(match[1]))
            path.write_bytes(data)
            self._add_frame(path)

    def _frame_path(self, step: int) -> Path:
        return self._folder / f"{step:04d}.jpeg"

    def _add_frame(self, path: Path) -> None:
        self._frames.append(Artifact(f"trace/{path.name}", "image/jpeg", path))
        if self._level == "video":
            with Image.open(path) as frame:
                if self._video is None:
                    self._video = Video(self._folder / "trace.mp4", width=frame.width, height=frame.height)
                self._video.add(frame)


def _write_jpeg(frame: Pixels, path: Path) -> None:
    Image.fromarray(frame, mode="RGB").save(path, "JPEG", quality=_JPEG_QUALITY)
