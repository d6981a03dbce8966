"""Whether the numbers in a file of weights are numbers, told without a library that computes.

A float is infinite, or not a number, where all bits of its exponent are set. In 16-bit floats of IEEE 754 these are in
the highest byte; in the others all but one of them, so that a byte in which they are set is rare, and looked at closer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from farm.client.headers import Header

_CHUNK = 2**20
"""A multiple of every size."""


@dataclass(frozen=True)
class _Floats:
    """How floats of one kind are laid out, the highest byte last: `size` bytes each, of which the highest is one of
    `tops` if all bits of the exponent in it are set. `goes_on`: its last bit is the first of the byte below."""

    size: int
    tops: tuple[bytes, ...]
    goes_on: bool

    def are_finite(self, data: bytes) -> bool:
        highest = data[self.size - 1 :: self.size]
        if not any(top in highest for top in self.tops):
            return True
        below = data[self.size - 2 :: self.size]
        tops = b"".join(self.tops)
        return self.goes_on and not any(top in tops and next >= 0x80 for top, next in zip(highest, below, strict=False))


_HALF = tuple(bytes((sign | rest,)) for sign in (0x7C, 0xFC) for rest in range(4))
_FULL = (b"\x7f", b"\xff")
_KINDS: Mapping[str, _Floats] = {
    "F16": _Floats(2, _HALF, goes_on=False),
    "BF16": _Floats(2, _FULL, goes_on=True),
    "F32": _Floats(4, _FULL, goes_on=True),
}


def not_finite(path: Path, header: Header) -> str | None:
    """The first weight in a file in which a number is infinite or none; None if there is no such. Raises `OSError`."""
    with path.open("rb") as file:
        for name, place in header.places.items():
            floats = _KINDS.get(place.kind)
            if floats is None:
                continue
            file.seek(place.begin)
            for at in range(place.begin, place.end, _CHUNK):
                if not floats.are_finite(file.read(min(_CHUNK, place.end - at))):
                    return name
    return None
