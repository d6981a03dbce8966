"""Checkpoints are read whole and looked at, or not at all: whoever can write to the bucket can write one."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save
from torch import Tensor

from farm.bucket.results import ModelUsed
from farm.jobs.spec import ResolvedSpec
from tests.worker.engine.conftest import resolved
from worker.diffusion.noise import NoiseStream
from worker.diffusion.steps import HISTORY
from worker.engine.request import Snapshot
from worker.results.checkpoint import Checkpoint, Unusable, pack, unpack

JOB = "0kz3mw7c9d2f4g5h-0003"
MODEL = ModelUsed(name="tiny", source="somewhere", revision=None)
SHAPE = (4, 8, 16)


def spec(**fields: Any) -> ResolvedSpec:
    return resolved(width=128, height=64, steps=10, trace="video", **fields)


def frame(width: int = 256, height: int = 64, format: str = "JPEG", mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), "teal").save(file, format)
    return file.getvalue()


def checkpoint() -> Checkpoint:
    noise = NoiseStream(3)
    noise.draw((1, *SHAPE))
    history, losses = torch.zeros((HISTORY, *SHAPE)), {"blue": [(0, 0.5), (3, 0.25)]}
    snapshot = Snapshot(4, torch.ones(SHAPE), history, noise.state, 1.5, losses, x0=2 * torch.ones(SHAPE))
    lines = b"".join(json.dumps({"step": step}).encode() + b"\n" for step in range(4))
    return Checkpoint(snapshot, {"trace.jsonl": lines, "trace/0003.jpeg": frame()})


def test_what_was_packed_is_unpacked() -> None:
    packed = checkpoint()
    read = unpack(pack(packed, JOB, spec(), MODEL), JOB, spec(), MODEL, SHAPE)
    assert (read.trace, read.snapshot.position, read.snapshot.seconds) == (packed.trace, 4, 1.5)
    assert read.snapshot.noise == packed.snapshot.noise
    assert torch.equal(read.snapshot.x, packed.snapshot.x)
    assert read.snapshot.losses == packed.snapshot.losses
    assert packed.snapshot.x0 is not None and read.snapshot.x0 is not None
    assert torch.equal(read.snapshot.x0, packed.snapshot.x0)


def about(**changes: Any) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        said = {**json.loads(bytes(tensors["about"].tolist())), **changes}
        tensors["about"] = as_tensor(json.dumps(said).encode())

    return change


def replaced(name: str, value: Tensor | bytes) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: as_tensor(value) if isinstance(value, bytes) else value})


def as_tensor(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytearray(data), np.uint8))


def lost(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.__delitem__(name)


def cached_nan() -> bytes:
    """A random stream that has drawn one number too many, which was replaced by NaN."""
    stream = NoiseStream(0)
    drawn = stream.draw((1,))
    state = stream.state
    spare = stream.draw((1,))
    assert drawn.isfinite()
    for at in range(len(state) - 4):
        if np.frombuffer(state[at : at + 4], np.float32)[0] == np.float32(spare.item()):
            return state[:at] + np.float32("nan").tobytes() + state[at + 4 :]
    at = state.index(np.float64(spare.item()).tobytes()[4:]) - 4
    return state[:at] + np.float64("nan").tobytes() + state[at + 8 :]


FORGED: dict[str, Callable[[dict[str, Tensor]], None]] = {
    "another version": about(version=2),
    "another job": about(job="0kz3mw7c9d2f4g5h-0004"),
    "before the first step": about(position=-1),
    "at no step": about(position=0),
    "after the last step": about(position=10),
    "at an endless step": about(position=float("inf")),
    "at half a step": about(position=2.5),
    "at a step of text": about(position="4"),
    "at a true step": about(position=True),
    "for ever": about(seconds=float("inf")),
    "for no number of seconds": about(seconds=float("nan")),
    "for less than no time": about(seconds=-1.0),
    "for ages": about(seconds=1e300),
    "about a list": replaced("about", b"[]"),
    "about nothing": replaced("about", b""),
    "losses of text": about(losses={"blue": "low"}),
    "losses of NaN": about(losses={"blue": [[0, float("nan")]]}),
    "losses without end": about(losses={"blue": [[0, 1.0]] * 1_001}),
    "losses of many names": about(losses={f"blue {number}": [] for number in range(100)}),
    "a prediction of another shape": replaced("x0", torch.ones(4, 16, 8)),
    "a prediction of NaN": replaced("x0", torch.full(SHAPE, torch.nan)),
    "latents of another shape": replaced("x", torch.ones(4, 16, 8)),
    "latents of a number": replaced("x", torch.tensor(1.0)),
    "latents in half precision": replaced("x", torch.ones(SHAPE).half()),
    "infinite latents": replaced("x", torch.full(SHAPE, torch.inf)),
    "history of another shape": replaced("history", torch.zeros((HISTORY + 1, *SHAPE))),
    "history of NaN": replaced("history", torch.full((HISTORY, *SHAPE), torch.nan)),
    "noise of nothing": replaced("noise", b""),
    "short noise": replaced("noise", b"abc"),
    "noise of nonsense": replaced("noise", b"\xff" * 5_056),
    "noise that is NaN": replaced("noise", cached_nan()),
    "no latents": lost("x"),
    "no noise": lost("noise"),
    "no history": lost("history"),
    "an enormous frame": replaced("trace:trace/0002.jpeg", frame(6_000, 6_000)),
    "a frame of another format": replaced("trace:trace/0002.jpeg", frame(format="PNG")),
    "a grey frame": replaced("trace:trace/0002.jpeg", frame(mode="L")),
    "half a frame": replaced("trace:trace/0002.jpeg", frame()[:300]),
    "a frame of nothing": replaced("trace:trace/0002.jpeg", b""),
    "a start of another size": replaced("trace:trace/start.jpeg", frame(128, 64)),
    "a frame of no step": replaced("trace:trace/0010.jpeg", frame()),
    "a frame elsewhere": replaced("trace:../../0002.jpeg", frame()),
    "a file of another kind": replaced("trace:result.json", b"{}"),
    "numbers of nonsense": replaced("trace:trace.jsonl", b"\xff\n"),
    "numbers that are a list": replaced("trace:trace.jsonl", b"[]\n"),
    "numbers nested without end": replaced("trace:trace.jsonl", b"[" * 4_000),
    "too many numbers": replaced("trace:trace.jsonl", b"{}\n" * 11),
    "a line without end": replaced("trace:trace.jsonl", b'{"a": "' + b"a" * 10_000 + b'"}\n'),
}


@pytest.mark.parametrize("case", FORGED)
def test_what_is_not_one_is_not_used(case: str) -> None:
    tensors = load(pack(checkpoint(), JOB, spec(), MODEL))
    FORGED[case](tensors)
    with pytest.raises(Unusable):
        unpack(save(tensors), JOB, spec(), MODEL, SHAPE)


@pytest.mark.parametrize("data", [b"", b"nonsense", (2**62).to_bytes(8, "little") + b"{}"])
def test_bytes_are_not_one(data: bytes) -> None:
    with pytest.raises(Unusable):
        unpack(data, JOB, spec(), MODEL, SHAPE)


def test_a_job_without_a_trace_takes_up_none() -> None:
    plain = resolved(width=128, height=64, steps=10)
    with pytest.raises(Unusable, match=r"the trace 'none' keeps no 'trace"):
        unpack(pack(checkpoint(), JOB, plain, MODEL), JOB, plain, MODEL, SHAPE)


def test_a_late_start_leaves_fewer_steps() -> None:
    late = spec(from_image=True, start_step=6)
    with pytest.raises(Unusable):
        unpack(pack(checkpoint(), JOB, late, MODEL), JOB, late, MODEL, SHAPE)
