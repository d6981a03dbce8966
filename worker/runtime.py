"""How this process uses memory and cores, settled before torch is imported and before any thread is started."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_NEVER = 2**31 - 1


def settle() -> None:
    """Keep freed memory, and let cores go while waiting. A user's own `OMP_WAIT_POLICY` wins.

    OpenMP's threads wait for one another hundreds of times a forward, and by default they spin meanwhile. On a
    machine that has other work the one that is waited for cannot run because the others spin: forwards of 2 rows took
    2.5 s each that take 0.03 s when they sleep (see deploy/PERFORMANCE.md).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _keep_freed_memory()


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
