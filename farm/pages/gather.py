"""Gathering what a page shows of a job from the bucket: within bounds, and checked as `farm fetch` checks it.

What is missing, damaged or too large is left out with a remark; a bucket that does not answer is an error.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from PIL import Image

from farm.bucket.fetch import IMAGE, read
from farm.bucket.results import JobResult
from farm.bucket.storage import Storage
from farm.errors import FetchRefused, ObjectMissing, ObjectTooLarge
from farm.jobs.spec import JobSpec
from farm.pages.record import MAX_LINE, Part, Remark, Step, figure, read_steps
from farm.pictures.images import without_warnings

NUMBERS, VIDEO, START = "trace.jsonl", "trace.mp4", "trace/start.jpeg"
MAX_FRAMES = 200
MAX_FRAMES_BYTES = 48 * 2**20
MAX_PICTURE_BYTES = 16 * 2**20
MAX_VIDEO_BYTES = 32 * 2**20
_FRAME = re.compile(r"trace/(\d{4})\.jpeg")
_AT_ONCE = 8
_NO_TRACE = "This job kept no trace: 'farm submit … --trace frames' keeps numbers and pictures of its steps."
_NO_STEPS = "This job took no step: 'farm fetch … --all' brings all that it made."
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
    def sigmas(self) -> dict[int, float | None]:
        """The noise level that each step starts from, as far as it is known."""
        of_schedule = self.result.schedule.sigmas if self.result.schedule else ()
        return {**{step.step: step.sigma for step in self.steps}, **dict(enumerate(map(figure, of_schedule)))}

    @property
    def faults(self) -> list[str]:
        """What of the stored objects could not be shown."""
        return [remark.text for remark in self.remarks if remark.is_fault]


def gather(storage: Storage, result: JobResult, *, sharing: int = 1) -> Seen:
    """Read what a job left. Raises `StorageError` if the bucket does not answer, `WrongState` if it has no picture.

    `sharing` is the number of jobs on the page, which share the room for frames; a page of several has no videos, nor
    where jobs started.
    """
    _ = result.picture  # before anything is read
    seen = Seen(result)
    reader = Reader(storage, seen)
    spec, size = result.spec, _size_of(result.spec)
    of_frame = size and (2 * size[0], size[1])
    seen.picture = reader.kept(reader.picture(IMAGE, "picture", kind="PNG", size=spec.picture_size))
    numbers = reader.kept(reader.object(NUMBERS, "numbers", limit=spec.steps_to_do * MAX_LINE))
    if numbers is not None:
        seen.steps, remarks = read_steps(numbers, spec)
        seen.remarks += remarks
    seen.frames, seen.frames_kept = _frames(reader, spec, of_frame, most_bytes=MAX_FRAMES_BYTES // sharing)
    if sharing == 1:
        seen.start = reader.kept(reader.picture(START, "frames", kind="JPEG", size=of_frame))
        seen.video = reader.kept(_video(reader))
    if spec.is_study:
        seen.remarks.append(Remark("frames", _NO_STEPS))
    elif not result.objects.keys() - {IMAGE}:
        seen.remarks.append(Remark("frames", _NO_TRACE))
    elif not seen.frames_kept:
        seen.remarks.append(Remark("frames", _NUMBERS_ALONE))
    return seen


class Reader:
    """Reads objects of one result: bytes, None where there is no such object, or why it is not to be shown."""

    def __init__(self, storage: Storage, seen: Seen) -> None:
        self._storage = storage
        self._seen = seen
        self.objects = seen.result.objects

    def kept(self, found: bytes | Remark | None) -> bytes | None:
        """The bytes that were found; why there are none becomes a remark of the page."""
        if isinstance(found, Remark):
            self._seen.remarks.append(found)
            return None
        return found

    def leave_out(self, why: str) -> None:
        """Something of the picture cannot be shown."""
        self._seen.remarks.append(Remark("picture", why, is_fault=True))

    def object(self, name: str, part: Part, *, limit: int) -> bytes | Remark | None:
        stored = self.objects.get(name)
        if stored is None:
            return None
        if stored.size > limit:
            return _left_out(name, part, f"it has {stored.size:,} bytes, more than {limit:,}")
        try:
            return read(self._storage, stored)
        except (FetchRefused, ObjectMissing, ObjectTooLarge) as error:
            return _left_out(name, part, error.message)

    def picture(self, name: str, part: Part, *, kind: str, size: tuple[int, int] | None) -> bytes | Remark | None:
        data = self.object(name, part, limit=MAX_PICTURE_BYTES)
        if isinstance(data, bytes) and (fault := _fault_of(data, kind, size)):
            return _left_out(name, part, f"it is {fault}")
        return data


def _left_out(name: str, part: Part, why: str) -> Remark:
    return Remark(part, f"{name} is left out: {why}.", is_fault=True)


def _frames(
    reader: Reader, spec: JobSpec, size: tuple[int, int] | None, *, most_bytes: int
) -> tuple[tuple[Frame, ...], int]:
    """The frames of a page, in order, and how many were kept of the job."""
    kept = sorted(int(match[1]) for name in reader.objects if (match := _FRAME.fullmatch(name)))
    kept = [step for step in kept if spec.start.step <= step < spec.steps]
    sizes = {step: reader.objects[_name(step)].size for step in kept}
    every, shown = _thinned(kept, sizes, most_bytes)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = list(pool.map(lambda step: reader.picture(_name(step), "frames", kind="JPEG", size=size), shown))
    if len(shown) < len(kept):
        told = f"{len(shown):,} of its {len(kept):,} frames are here, one of every {every} and the last"
        whole = f"all have {sum(sizes.values()) / 2**20:,.1f} MiB, and 'farm fetch … --all' brings them"
        reader.kept(Remark("frames", f"{told}: {whole}."))
    pictures = zip(shown, map(reader.kept, found), strict=True)
    return tuple(Frame(step, data) for step, data in pictures if data is not None), len(kept)


def _name(step: int) -> str:
    return f"trace/{step:04d}.jpeg"


def _thinned(steps: Sequence[int], sizes: Mapping[int, int], most_bytes: int) -> tuple[int, list[int]]:
    """Every n-th step and the last, with the least n by which their frames are few and small enough; and that n."""
    for n in range(max(1, math.ceil(len(steps) / MAX_FRAMES)), len(steps) + 1):
        taken = list(steps[::n])
        if taken[-1] != steps[-1]:
            taken = [*taken[: MAX_FRAMES - 1], steps[-1]]
        if sum(sizes[step] for step in taken) <= most_bytes:
            return n, taken
    return len(steps), []


def _video(reader: Reader) -> bytes | Remark | None:
    data = reader.object(VIDEO, "video", limit=MAX_VIDEO_BYTES)
    return _left_out(VIDEO, "video", "it is no MP4 file") if isinstance(data, bytes) and data[4:8] != b"ftyp" else data


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
