"""How this process uses memory and cores, settled before torch is imported and before any thread is started, and how it
imports large packages."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_NEVER = 2**31 - 1


def settle() -> None:
    """Keep freed memory, and let OpenMP's threads wait for one another as suits a forward."""
    _wait_briefly_awake()
    _keep_freed_memory()


def _wait_briefly_awake() -> None:
    """Let OpenMP's threads spin for some tens of microseconds while they wait, and sleep after that.

    They wait for one another hundreds of times a forward, mostly for less than it takes to wake a thread: where they
    sleep at once, forwards take 1.6 to 2.3 times as long. Where they spin for long, they take the cores from the one
    that is waited for as soon as the machine has other work (see deploy/docs/performance.md). GNU's runtime, which
    torch's wheels for Linux have, spins hardly at all by itself once more threads than there are cores have ever
    computed something; with `ACTIVE` it spins 1,000 times even then. Other runtimes would take `ACTIVE` to mean
    for ever, were it not for a `KMP_BLOCKTIME`, in milliseconds. A user's own settings win.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "ACTIVE" if sys.platform.startswith("linux") else "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        os.environ.setdefault("KMP_BLOCKTIME", "1")


def _keep_freed_memory() -> None:
    """Let the GNU C library's `malloc` keep what is freed instead of handing it back to the kernel.

    Every forward pass allocates and frees the same activations. By default the large ones are returned at once, and
    the kernel clears and maps their pages again a moment later, a tenth of the time of a decode on a CPU. The process
    then stays as large as it once was. Elsewhere this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries than GNU's may lack it
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)  # arenas of other threads are handed back whatever the thresholds say
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_MMAP_THRESHOLD, _NEVER)


@contextmanager
def importing() -> Iterator[None]:
    """For the import of large packages: nothing is looked through for garbage, neither meanwhile nor ever after.

    Next to nothing of what modules make is garbage, and to find that out again and again is a quarter of the time that
    it takes to import torch and diffusers, whose 450,000 objects every later full collection would look through again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
