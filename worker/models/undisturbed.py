"""Computing without anybody in between: see `worker.engine.beats`, which calls others before every operator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.overrides import _pop_mode_temporarily


@contextmanager
def undisturbed() -> Iterator[None]:
    """No function mode acts in the block: none is to take its turn in what is being recorded, and compiled code runs as
    it was compiled, which is without any."""
    with ExitStack() as stack:
        while torch._C._len_torch_function_stack():
            stack.enter_context(_pop_mode_temporarily())
        yield
