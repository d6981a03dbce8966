"""Whether a step's numbers are finite, found out without making the device wait for the host.

Reading a tensor waits until the device has computed it, and meanwhile the device is given nothing else to do. So the
flags are copied to the host as part of the step, and read when the next step is under way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from worker.engine.request_state import RequestState


class Checks:
    """Of the step that some jobs have just taken: whether their latents `x` [J, 4, h, w] are finite."""

    def __init__(self, states: Sequence[RequestState], x: Tensor) -> None:
        self._taken = [(state, state.advanced_step) for state in states]
        self._flags = torch.isfinite(x).flatten(1).all(dim=1)
        self._copied: torch.cuda.Event | None = None
        if x.is_cuda:
            on_host = torch.empty(self._flags.shape, dtype=torch.bool, pin_memory=True)
            self._flags = on_host.copy_(self._flags, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def failed(self) -> Iterator[tuple[RequestState, int]]:
        """The jobs whose latents are not finite, each with the step that made them so."""
        if self._copied is not None:
            self._copied.synchronize()
        for (state, step), is_finite in zip(self._taken, self._flags.tolist(), strict=True):
            if not is_finite:
                yield state, step
