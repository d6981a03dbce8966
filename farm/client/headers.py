"""Headers of safetensors: what is in a file of weights, as far as that can be told without PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from farm.client.given import GivenFile
from farm.disguises import LOOK_AT, disguise
from farm.errors import InvalidInput
from farm.words import one_line

Shapes = Mapping[str, tuple[int, ...]]

_LENGTH = 8
_METADATA = "__metadata__"
_MAX_HEADER_BYTES = 100 * 2**20
_BITS: Mapping[str, int] = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
"""How many bits a number takes, of every kind that safetensors has."""
_HIGHEST = 2**64 - 1
_LONGEST_NAME = 100


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

    What the library refuses by which a worker opens it is refused: a file that is accepted can be read.
    Raises `InvalidInput` if it is none, or not whole, and `OSError` if it cannot be read.
    """
    size = file.path.stat().st_size
    with file.path.open("rb") as opened:
        beginning = opened.read(LOOK_AT)
        length = int.from_bytes(beginning[:_LENGTH], "little")
        is_there = length <= size - _LENGTH
        if is_there and length > most:
            raise file.refused(f"has a header of {length:,} bytes, more than {most:,}")
        opened.seek(_LENGTH)
        said = opened.read(length) if is_there else b""
    begin = _LENGTH + length
    try:
        weights: dict[str, Any] = json.loads(said.decode(), parse_constant=_refuse)
        metadata = _metadata(weights.pop(_METADATA, None))
        shapes = {key: tuple(map(_number, weight["shape"])) for key, weight in weights.items()}
        places = {key: _place(weight, begin) for key, weight in weights.items()}
        "".join((*weights, *metadata, *metadata.values())).encode()
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise _no_safetensors(file, beginning) from error
    if max((place.end for place in places.values()), default=begin) != size:
        raise file.refused("is cut short or damaged: its weights do not end where it does", hint="fetch it again")
    _check_places(file, begin, shapes, places)
    return Header(shapes, metadata, begin, places)


def _no_safetensors(file: GivenFile, beginning: bytes) -> InvalidInput:
    what, hint = disguise(beginning) or ("not safetensors, or is damaged", "fetch it again")
    return file.refused(f"is {what}", hint=hint)


def _check_places(file: GivenFile, begin: int, shapes: Shapes, places: Mapping[str, Place]) -> None:
    """Raise `InvalidInput` unless weights lie one after the other, each as long as its shape and kind say."""
    end = begin
    for name, place in sorted(places.items(), key=lambda one: (one[1].begin, one[1].end)):
        called = repr(one_line(name)[:_LONGEST_NAME])
        if place.begin != end:
            what = "overlaps the one before it" if place.begin < end else "does not begin where the one before it ends"
            raise file.refused(f"is damaged: its weight {called} {what}", hint="fetch it again")
        if _bits(shapes[name], place.kind) != 8 * (place.end - place.begin):
            why = f"is damaged: its weight {called} is not as long as its shape says"
            raise file.refused(why, hint="fetch it again")
        end = place.end


def _bits(shape: tuple[int, ...], kind: str) -> int | None:
    """How long a weight is; None where the library's count on the way there, side by side, is too high for it."""
    number = 1
    for side in (*shape, _BITS[kind]):
        number *= side
        if number > _HIGHEST:
            return None
    return number


def _metadata(said: Any) -> Mapping[str, str]:
    if said is not None and not all(isinstance(value, str) for value in said.values()):
        raise ValueError("what its maker says is no text")
    return said or {}


def _place(weight: Mapping[str, Any], begin: int) -> Place:
    first, last = map(_number, weight["data_offsets"])
    if first > last:
        raise ValueError("a weight ends before it begins")
    if (kind := weight["dtype"]) not in _BITS:
        raise ValueError("a weight is of numbers that safetensors has not")
    return Place(kind, begin + first, begin + last)


def _number(said: Any) -> int:
    if type(said) is not int or not 0 <= said <= _HIGHEST:
        raise ValueError("a side or place is no number that can be")
    return said


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")
