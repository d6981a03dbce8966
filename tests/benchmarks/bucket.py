"""How fast the local farm's bucket takes pictures."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from farm.bucket.storage import Storage
from tests.benchmarks.farms import LocalFarm

_BYTES = 40_000
"""About one picture of the bundled model with its metadata."""


def puts(farm: LocalFarm, *, count: int = 400, lanes: int = 8) -> dict[str, Any]:
    """Objects a second, put by `lanes` threads of one process."""
    storage, data = Storage(farm.where), os.urandom(_BYTES)
    storage.ensure_bucket()

    def put(number: int) -> None:
        storage.put(f"bench/{number}", data, "image/png")

    with ThreadPoolExecutor(lanes) as pool:
        list(pool.map(put, range(lanes)))
        began = time.perf_counter()
        list(pool.map(put, range(count)))
        seconds = time.perf_counter() - began
    return {"bytes": _BYTES, "lanes": lanes, "objects_per_second": count / seconds}
