"""Numbers as people write them."""

from __future__ import annotations


def number(text: str) -> float:
    """As `float` reads it, but for `1_0` and the digits of other scripts, which are slips. Raises `ValueError`."""
    if "_" in text or not text.isascii():
        raise ValueError(f"{text!r} is not a number")
    return float(text)
