"""Gathering what a trace page shows of a job from the bucket: within bounds, and checked as `farm fetch` checks it.

What is missing, damaged or too large is left out with a remark; a bucket that does not answer is an error.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from PIL import Image

from farm.bucket.fetch import IMAGE, read
from farm.bucket.results import JobResult, ResultObject
from farm.bucket.storage import Storage
from farm.errors import FetchRefused, ObjectMissing, ObjectTooLarge
from farm.jobs.spec import JobSpec
from farm.pages.record import MAX_LINE, Part, Remark, Step, read_steps
from farm.pictures.images import without_warnings

NUMBERS, VIDEO, START = "trace.jsonl", "trace.mp4", "trace/start.jpeg"
MAX_FRAMES = 200
MAX_FRAMES_BYTES = 48 * 2**20
MAX_PICTURE_BYTES = 32 * 2**20
MAX_VIDEO_BYTES = 32 * 2**20
_FRAME = re.compile(r"trace/(\d{4})\.jpeg")
_AT_ONCE = 8
_NO_TRACE = "This job kept no trace: 'farm submit … --trace frames' keeps numbers and pictures of its steps."
_NUMBERS_ALONE = "Its trace has numbers alone: 'farm submit … --trace frames' keeps pictures of the steps too."


@dataclass(frozen=True)
class Frame:
    """What a step left: a JPEG of [height, 2·width], the latents after the step beside the predicted x_0."""

    step: int
    data: bytes


@dataclass
class Seen:
    """All that a page shows of a job. `frames` are of `frames_kept` in the bucket."""

    result: JobResult
    steps: tuple[Step, ...] = ()
    frames: tuple[Frame, ...] = ()
    frames_kept: int = 0
    start: bytes | None = None
    picture: bytes | None = None
    video: bytes | None = None
    remarks: list[Remark] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """What of the stored objects could not be shown."""
        return [remark.text for remark in self.remarks if remark.is_fault]


def gather(storage: Storage, result: JobResult) -> Seen:
    """Read what a job left. Raises `StorageError` if the bucket does not answer."""
    seen = Seen(result)
    reader = _Reader(storage, seen)
    spec, size = result.spec, _size_of(result.spec)
    seen.picture = reader.picture(IMAGE, "picture", limit=MAX_PICTURE_BYTES, kind="PNG", size=size)
    if (numbers := reader.object(NUMBERS, "numbers", limit=spec.steps_to_do * MAX_LINE)) is not None:
        seen.steps, remarks = read_steps(numbers, spec)
        seen.remarks += remarks
    of_frame = size and (2 * size[0], size[1])
    seen.start = reader.picture(START, "frames", limit=MAX_FRAMES_BYTES, kind="JPEG", size=of_frame)
    seen.frames, seen.frames_kept = _frames(reader, spec, of_frame)
    seen.video = _video(reader)
    if not result.objects.keys() - {IMAGE}:
        reader.remark("frames", _NO_TRACE, is_fault=False)
    elif not seen.frames_kept:
        reader.remark("frames", _NUMBERS_ALONE, is_fault=False)
    return seen


class _Reader:
    """Reads objects of one result; what cannot be read is None, with a remark."""

    def __init__(self, storage: Storage, seen: Seen) -> None:
        self._storage = storage
        self._seen = seen

    @property
    def objects(self) -> dict[str, ResultObject]:
        return self._seen.result.objects

    def remark(self, part: Part, text: str, *, is_fault: bool = True) -> None:
        self._seen.remarks.append(Remark(part, text, is_fault))

    def object(self, name: str, part: Part, *, limit: int) -> bytes | None:
        stored = self.objects.get(name)
        if stored is None:
            return None
        if stored.size > limit:
            self.remark(part, f"{name} is left out: it has {stored.size:,} bytes, more than {limit:,}.")
            return None
        try:
            return read(self._storage, stored)
        except (FetchRefused, ObjectMissing, ObjectTooLarge) as error:
            self.remark(part, f"{name} is left out: {error.message}.")
            return None

    def picture(self, name: str, part: Part, *, limit: int, kind: str, size: tuple[int, int] | None) -> bytes | None:
        data = self.object(name, part, limit=limit)
        if data is not None and (fault := _fault_of(data, kind, size)):
            self.remark(part, f"{name} is left out: it is {fault}.")
            return None
        return data


def _frames(reader: _Reader, spec: JobSpec, size: tuple[int, int] | None) -> tuple[tuple[Frame, ...], int]:
    """The frames of a page, in order, and how many were kept of the job."""
    kept = sorted(int(match[1]) for name in reader.objects if (match := _FRAME.fullmatch(name)))
    kept = [step for step in kept if spec.start.step <= step < spec.steps]
    shown = _thinned(kept, lambda step: reader.objects[_name(step)].size)

    def one(step: int) -> Frame | None:
        data = reader.picture(_name(step), "frames", limit=MAX_FRAMES_BYTES, kind="JPEG", size=size)
        return None if data is None else Frame(step, data)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        frames = tuple(frame for frame in pool.map(one, shown) if frame is not None)
    if len(shown) < len(kept):
        told = f"{len(shown):,} of {len(kept):,} frames are here, so that the page stays small enough to open."
        reader.remark("frames", told, is_fault=False)
    return frames, len(kept)


def _name(step: int) -> str:
    return f"trace/{step:04d}.jpeg"


def _thinned(steps: Sequence[int], size: Callable[[int], int]) -> list[int]:
    """Every n-th step and the last, with the least n by which their frames are few and small enough."""
    for n in range(max(1, math.ceil(len(steps) / MAX_FRAMES)), len(steps) + 1):
        taken = list(steps[::n])
        if taken[-1] != steps[-1]:
            taken = [*taken[: MAX_FRAMES - 1], steps[-1]]
        if sum(map(size, taken)) <= MAX_FRAMES_BYTES:
            return taken
    return []


def _video(reader: _Reader) -> bytes | None:
    data = reader.object(VIDEO, "video", limit=MAX_VIDEO_BYTES)
    if data is not None and data[4:8] != b"ftyp":
        reader.remark("video", f"{VIDEO} is left out: it is no MP4 file.")
        return None
    return data


def _size_of(spec: JobSpec) -> tuple[int, int] | None:
    return (spec.width, spec.height) if spec.width and spec.height else None


def _fault_of(data: bytes, kind: str, size: tuple[int, int] | None) -> str | None:
    """What a picture is that should be of this kind and size in pixels. Its pixels are left to the browser."""
    try:
        with without_warnings(), Image.open(io.BytesIO(data), formats=(kind,)) as picture:
            found = picture.size
    except Exception:  # what a decoder makes of hostile bytes
        return f"no {kind} picture"
    return None if size in (None, found) else f"a picture of {found[0]}×{found[1]} pixels"
