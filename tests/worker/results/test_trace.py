"""A trace's files."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from farm.jobs.spec import TraceLevel
from tests.worker.engine.conftest import resolved
from worker.engine.request import Pixels, StepRecord
from worker.results.trace import TraceWriter, check_so_far


def record(step: int) -> StepRecord:
    return StepRecord(
        step=step,
        timestep=900.0 - step,
        sigma=10.0 - step,
        norms={"x": 1.5},
        losses={"blue": 0.25},
        guidance={"angle": 10.0, "distance": 2.5},
        x0_change=0.5,
    )


def frame(step: int) -> Pixels:
    return np.full((64, 128, 3), 20 * step, dtype=np.uint8)


def write(folder: Path, level: TraceLevel, *, steps: int = 4, frames: bool = True) -> dict[str, Path]:
    with TraceWriter(folder, level) as trace:
        for step in range(steps):
            trace.add(record(step), frame(step) if frames else None)
    return {file.name: file.data for file in trace.files() if isinstance(file.data, Path)}


def test_no_trace_is_no_file(tmp_path: Path) -> None:
    with TraceWriter(tmp_path, "none") as trace:
        pass

    assert list(trace.files()) == []
    assert list(tmp_path.iterdir()) == []


def test_numbers_are_one_line_a_step(tmp_path: Path) -> None:
    files = write(tmp_path, "numbers", frames=False)

    assert list(files) == ["trace.jsonl"]
    lines = [json.loads(line) for line in files["trace.jsonl"].read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert lines[1] == {
        "step": 1,
        "timestep": 899.0,
        "sigma": 9.0,
        "norms": {"x": 1.5},
        "losses": {"blue": 0.25},
        "guidance": {"angle": 10.0, "distance": 2.5},
        "x0_change": 0.5,
    }


def test_the_noised_picture_is_kept_beside_the_frames(tmp_path: Path) -> None:
    with TraceWriter(tmp_path, "frames") as trace:
        trace.add_start(frame(4))
        trace.add(record(0), frame(1))
        kept = trace.so_far()
    assert [file.name for file in trace.files()] == ["trace.jsonl", "trace/start.jpeg", "trace/0000.jpeg"]

    check_so_far(kept, resolved(trace="frames"))
    (again := tmp_path / "again").mkdir()
    with TraceWriter(again, "frames", kept) as resumed:
        resumed.add(record(1), frame(2))
    files = {file.name: file.read() for file in resumed.files()}
    assert files["trace/start.jpeg"] == kept["trace/start.jpeg"]
    assert list(files) == ["trace.jsonl", "trace/start.jpeg", "trace/0000.jpeg", "trace/0001.jpeg"]


def test_frames_are_named_by_their_step(tmp_path: Path) -> None:
    files = write(tmp_path, "frames")

    assert list(files) == ["trace.jsonl", *(f"trace/{step:04d}.jpeg" for step in range(4))]
    with Image.open(files["trace/0003.jpeg"]) as image:
        assert image.size == (128, 64)
        assert image.getpixel((5, 5)) == pytest.approx((60, 60, 60), abs=3)


def test_a_video_has_every_frame_at_twelve_a_second(tmp_path: Path) -> None:
    files = write(tmp_path, "video", steps=7)

    with av.open(str(files["trace.mp4"])) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 12)
        brightness = [int(picture.to_ndarray(format="rgb24").mean()) for picture in video.decode(stream)]
    assert brightness == pytest.approx([20 * step for step in range(7)], abs=4)


def test_a_trace_taken_up_by_another_writer_is_the_same_to_the_byte(tmp_path: Path) -> None:
    halves = [tmp_path / name for name in ("first", "second", "whole")]
    for folder in halves:
        folder.mkdir()
    with TraceWriter(halves[0], "video") as first:
        for step in range(3):
            first.add(record(step), frame(step))
        so_far = first.so_far()
    with TraceWriter(halves[1], "video", so_far) as second:
        for step in range(3, 7):
            second.add(record(step), frame(step))

    taken_up = {file.name: file.read() for file in second.files()}

    assert taken_up == {name: path.read_bytes() for name, path in write(halves[2], "video", steps=7).items()}
    assert "trace.mp4" in taken_up


def test_a_writer_that_is_left_by_an_error_closes_its_files(tmp_path: Path) -> None:
    with pytest.raises(KeyError), TraceWriter(tmp_path, "video") as trace:
        trace.add(record(0), frame(0))
        raise KeyError

    with av.open(str(tmp_path / "trace.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 1
