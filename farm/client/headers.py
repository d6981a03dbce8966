"""Headers of safetensors: what is in a file of weights, as far as that can be told without PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from farm.client.given import GivenFile

Shapes = Mapping[str, tuple[int, ...]]

_LENGTH = 8
_METADATA = "__metadata__"
_MAX_HEADER_BYTES = 100 * 2**20


@dataclass(frozen=True)
class Place:
    """Where in a file a weight begins and ends, in bytes, and of which kind its numbers are, such as `F16`."""

    kind: str
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """The shapes and places of all weights in a file, what its maker says of it, and where in it the weights begin, in
    bytes."""

    shapes: Shapes
    metadata: Mapping[str, str]
    begin: int
    places: Mapping[str, Place]


def read_header(file: GivenFile, *, most: int = _MAX_HEADER_BYTES) -> Header:
    """The header of a file of safetensors, of at most `most` bytes.

    Raises `InvalidInput` if it is none, or not whole, and `OSError` if it cannot be read.
    """
    size = file.path.stat().st_size
    with file.path.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH), "little")
        if most < length <= size - _LENGTH:
            raise file.refused(f"has a header of {length:,} bytes, more than {most:,}")
        said = opened.read(length) if length <= size - _LENGTH else b""
    try:
        weights: dict[str, Any] = json.loads(said)
        metadata = {key: value for key, value in weights.pop(_METADATA, {}).items() if isinstance(value, str)}
        shapes = {key: tuple(map(int, weight["shape"])) for key, weight in weights.items()}
        begin = _LENGTH + length
        places = {key: _place(weight, begin) for key, weight in weights.items()}
        end = max((place.end for place in places.values()), default=begin)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise file.refused(
            "is not safetensors, or is damaged", hint="fetch it again; 'git lfs pull' fetches what is a pointer"
        ) from error
    if end != size or sum(place.end - place.begin for place in places.values()) > size:
        raise file.refused("is cut short or damaged: its weights do not end where it does", hint="fetch it again")
    if not all(side >= 0 for shape in shapes.values() for side in shape):
        raise file.refused("is damaged: a weight has a shape that cannot be", hint="fetch it again")
    return Header(shapes, metadata, begin, places)


def _place(weight: Mapping[str, Any], begin: int) -> Place:
    first, last = map(int, weight["data_offsets"])
    if not 0 <= first <= last:
        raise ValueError("a weight ends before it begins")
    return Place(str(weight.get("dtype")), begin + first, begin + last)
