"""The same bits whatever a job's company, on CUDA: kernels that are reproducible, and chosen by shapes alone.

See https://docs.pytorch.org/docs/stable/notes/randomness.html. Forwards of flash and memory-efficient attention are
reproducible; the latter's backward adds in any order, so losses are differentiated through the plain one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def choose_deterministic_kernels() -> None:
    """Let no kernel be chosen by timing it, and none add in an order that changes. To be called before CUDA is used."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)


@contextmanager
def reproducible_backward() -> Iterator[None]:
    """What is computed in the block can be differentiated reproducibly, if deterministic kernels were chosen."""
    if not (torch.cuda.is_available() and torch.are_deterministic_algorithms_enabled()):
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield
