"""What is measured: moments of each job, time, rows and memory of a run, and time inside the model itself."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worker.engine.request import Pixels
from worker.models.model import LoadedModel


@dataclass
class Served:
    """One job's moments, in seconds from the start of the run, and its picture."""

    id: str
    first_step: float = 0.0
    done: float = 0.0
    pixels: Pixels | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Run:
    """One arm's run over one workload."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int | None
    served: Sequence[Served]

    @property
    def images_per_second(self) -> float:
        return len(self.served) / self.seconds


Render = Callable[[Callable[[], float]], Sequence[Served]]
"""Renders a workload. It is given a clock that tells the seconds since the run began."""


def measured(render: Render) -> Run:
    """Run once, and measure."""
    _forget_peak()
    cpu, begun = time.process_time(), time.perf_counter()
    served = render(lambda: time.perf_counter() - begun)
    synchronize()
    return Run(time.perf_counter() - begun, time.process_time() - cpu, _peak_bytes(), served)


def synchronize() -> None:
    """Wait for the device, so that a clock tells the time of what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass
class Meter:
    """Seconds inside a model's parts, and the forwards and rows of its UNet."""

    seconds: float = 0.0
    forwards: int = 0
    rows: int = 0


@contextmanager
def metered(model: LoadedModel) -> Iterator[Meter]:
    """Count what the model itself does during the block."""
    meter = Meter()
    began: list[float] = []

    def before(*_: Any) -> None:
        synchronize()
        began.append(time.perf_counter())

    def after(*_: Any) -> None:
        synchronize()
        meter.seconds += time.perf_counter() - began.pop()

    def count(_: Any, arguments: tuple[Any, ...]) -> None:
        meter.forwards += 1
        meter.rows += len(arguments[0])

    handles = [model.called_unet.register_forward_pre_hook(count)]
    for part in (model.called_unet, model.vae.decoder, model.vae.encoder, model.text_encoder):
        handles += [part.register_forward_pre_hook(before), part.register_forward_hook(after)]
    try:
        yield meter
    finally:
        for handle in handles:
            handle.remove()


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations a second of this device's best large matrix product or convolution, measured."""
    side = 8192 if device.type == "cuda" else 1024
    left = torch.randn((side, side), device=device, dtype=dtype)
    picture = torch.randn((4, 256, 32, 32), device=device, dtype=dtype)
    kernel = torch.randn((256, 256, 3, 3), device=device, dtype=dtype)
    candidates = (
        (lambda: left @ left, 2.0 * side**3),
        (lambda: torch.nn.functional.conv2d(picture, kernel, padding=1), 2.0 * 4 * 32 * 32 * 256 * 256 * 9),
    )
    return max(operations / best_time(call) for call, operations in candidates)


def best_time(call: Callable[[], Any], *, repeats: int = 5) -> float:
    """Seconds of the fastest of some calls, after one to warm up."""
    return min(times(call, repeats=repeats))


def times(call: Callable[[], Any], *, repeats: int = 5) -> list[float]:
    """Seconds of each of some calls, after one to warm up."""
    seconds = []
    for _ in range(repeats + 1):
        synchronize()
        begun = time.perf_counter()
        call()
        synchronize()
        seconds.append(time.perf_counter() - begun)
    return seconds[1:]


@torch.no_grad()
def flops(call: Callable[[], Any]) -> float:
    """Floating point operations of one call, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


@dataclass(frozen=True)
class Spread:
    """The median of some numbers, and the smallest and the largest."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of the values do not exceed."""
    return float(np.quantile(np.asarray(values), share))


def largest_difference(left: Sequence[Served], right: Sequence[Served]) -> int:
    """The largest difference between two arms' pictures of the same jobs, in 255ths; -1 where none is comparable."""
    others = {served.id: served.pixels for served in right}
    pairs = [(served.pixels, others.get(served.id)) for served in left]
    both = [(one, other) for one, other in pairs if one is not None and other is not None]
    return max((int(np.abs(one.astype(int) - other.astype(int)).max()) for one, other in both), default=-1)


_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def _forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR.exists():
        _CLEAR.write_text(_RESET_PEAK, encoding="utf-8")


def _peak_bytes() -> int | None:
    """The most memory since `_forget_peak`: of the GPU, else of this process (where Linux tells)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if _CLEAR.exists():
        line = next(line for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return None
