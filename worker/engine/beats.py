"""A beat between the operators of one long computation: a sign of life, and a place where others can take a turn.

A picture of 2,048 pixels a side can keep a CPU for minutes in one step. Without beats nobody could tell that from a
hung kernel, and everybody else would wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_OPERATIONS = {"cpu": 2e10}
_OPERATIONS_OF_A_GPU = 1e13
"""Of a part of attention: a third of a second of two CPU cores, some hundredths of one of a GPU."""
_AHEAD = 8
"""Operators that may wait for a device that computes while the host goes on."""
_STRIDE = 64


class Event(Protocol):
    """A mark among what a device was told to do, such as `torch.cuda.Event`."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


@contextmanager
def beats(between: Callable[[], None], *, in_parts: bool, event: Callable[[], Event] | None = None) -> Iterator[None]:
    """Call `between` before every operator that Python calls in the block, and with `in_parts` amid long attention too.

    A GPU is told in a moment what it will compute for seconds, and whoever comes in between would wait for all of it.
    So with `event` the host stays only a few operators ahead.
    What `between` computes has no beats of its own unless it asks for them. It may raise, which ends the block.
    Recorded and compiled modules are one operator each, and so is a backward pass.
    """
    with _Beats(between, in_parts, event):
        yield


class _Beats(TorchFunctionMode):
    def __init__(self, between: Callable[[], None], in_parts: bool, event: Callable[[], Event] | None) -> None:
        super().__init__()
        self._between = between
        self._in_parts = in_parts
        self._event = event
        self._waiting: deque[Event] = deque()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._between()  # a mode is not active while it handles an operator
        if self._in_parts and func is F.scaled_dot_product_attention:
            return self._attention(*args, **(kwargs or {}))
        return self._done(func(*args, **(kwargs or {})))

    def _done(self, made: Any) -> Any:
        """An operator's outcome, once the device is no further behind than it may be."""
        if self._event is not None:
            mark = self._event()
            mark.record()
            self._waiting.append(mark)
            if len(self._waiting) > _AHEAD:
                self._waiting.popleft().synchronize()
        return made

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, *more: Any, **options: Any) -> Tensor:
        """Attention [..., tokens, width], for some of the queries at a time: none depends on another.

        The shapes alone say in how many parts, so that a job's bytes do not depend on anything else.
        """
        for_one = 4 * key.shape[-2] * query.numel() / query.shape[-2]
        operations = _OPERATIONS.get(query.device.type, _OPERATIONS_OF_A_GPU)
        length = _STRIDE * max(1, int(operations / for_one) // _STRIDE)
        is_plain = not more and options.get("attn_mask") is None and not options.get("is_causal", False)
        if query.shape[-2] <= length or not is_plain:
            whole: Tensor = self._done(F.scaled_dot_product_attention(query, key, value, *more, **options))
            return whole
        # written in place: joining the parts at the end would take twice the room
        joined = query.new_empty((*query.shape[:-1], value.shape[-1]))
        for part, out in zip(query.split(length, dim=-2), joined.split(length, dim=-2), strict=True):
            self._between()
            self._done(out.copy_(F.scaled_dot_product_attention(part, key, value, **options)))
        return joined
