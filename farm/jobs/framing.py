"""How a picture was framed, as a model is told of it.

SDXL learnt with each picture how large its original was, where it was cut from that, and to what size (Podell et al.
2023, arXiv:2307.01952, section 2.2).
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from farm.jobs.faults import quoted
from farm.jobs.wire import Wire

MAX_TOLD = 16_384

_SIZE = re.compile(r"\s*([0-9]{1,9})\s*[xX×]\s*([0-9]{1,9})\s*")
_CORNER = re.compile(r"\s*([0-9]{1,9})\s*,\s*([0-9]{1,9})\s*")

_Side = Annotated[int, Field(ge=1, le=MAX_TOLD)]
_Pixels = Annotated[int, Field(ge=0, le=MAX_TOLD)]


class PixelSize(Wire):
    """Of a picture that nobody need have: 1 to 16,384 pixels a side."""

    width: _Side
    height: _Side

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


class Corner(Wire):
    """The upper left corner of what was cut out: so many pixels, 0 to 16,384, were cut off on the left and above."""

    x: _Pixels = 0
    y: _Pixels = 0

    def __str__(self) -> str:
        return f"{self.x},{self.y}"


def _as_size(value: Any) -> Any:
    """`4096x4096` as a mapping. Raises `ValueError` for another text, or a number."""
    if not isinstance(value, (str, int, float)):
        return value
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{quoted(value)} is not WIDTHxHEIGHT in pixels, such as 4096x4096")
    return {"width": int(found[1]), "height": int(found[2])}


def _as_corner(value: Any) -> Any:
    """`128,0` as a mapping. Raises `ValueError` for another text, or a number."""
    if not isinstance(value, (str, int, float)):
        return value
    found = _CORNER.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{quoted(value)} is not X,Y: the pixels cut off on the left and above, such as 128,0")
    return {"x": int(found[1]), "y": int(found[2])}


WrittenSize = Annotated[PixelSize, BeforeValidator(_as_size)]
WrittenCorner = Annotated[Corner, BeforeValidator(_as_corner)]


class Framing(Wire):
    """How a picture was framed, as a person writes it: what is None is not told."""

    original_size: WrittenSize | None = None
    crop: WrittenCorner | None = None
    target_size: WrittenSize | None = None

    @property
    def told(self) -> dict[str, PixelSize | Corner]:
        """What is told, by field."""
        return {field: value for field, value in self if value is not None}


FRAMING = tuple(Framing.model_fields)
"""The fields of a job that tell it."""
