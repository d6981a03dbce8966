"""The share of a run in which the device computes nothing of the model, because of the host or the rest of a tick."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from worker.bench.measure import synchronize
from worker.models.model import LoadedModel

_Moment = torch.cuda.Event | float


@contextmanager
def watched(model: LoadedModel) -> Iterator[Callable[[], float]]:
    """Notes when the model's parts begin and end on the device, without waiting for it.

    Call what it gives for the share of the block's time, 0 to 1, in which none of them ran. Backward passes of losses
    are not parts of the model, so watch jobs without losses.
    """
    spans: list[tuple[_Moment, _Moment]] = []
    open_spans: list[_Moment] = []

    def before(*_: Any) -> None:
        open_spans.append(_now(model))

    def after(*_: Any) -> None:
        spans.append((open_spans.pop(), _now(model)))

    def idle() -> float:
        synchronize()
        seconds = time.perf_counter() - began
        return 1 - sum(_between(*span) for span in spans) / seconds

    handles = []
    for part in (model.called_unet, model.vae.decoder, model.vae.encoder, model.text_encoder):
        handles += [part.register_forward_pre_hook(before), part.register_forward_hook(after)]
    began = time.perf_counter()
    try:
        yield idle
    finally:
        for handle in handles:
            handle.remove()


def _now(model: LoadedModel) -> _Moment:
    if model.device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(begin: _Moment, end: _Moment) -> float:
    """Seconds."""
    if isinstance(begin, float) or isinstance(end, float):
        assert isinstance(begin, float) and isinstance(end, float)
        return end - begin
    milliseconds: float = begin.elapsed_time(end)
    return milliseconds / 1e3
