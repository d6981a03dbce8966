"""Waiting for conditions, never for time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def eventually(happens: Callable[[], Any], what: str, *, within: float = 120.0) -> Any:
    """Wait until `happens()` is true, and give it back. Fails after `within` seconds, saying `what` did not happen."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if answer := happens():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"not within {within:g} s: {what}")
