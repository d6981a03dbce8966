"""Masks as OpenAI has them, which are transparent where a picture is to be made anew."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

from farm.errors import InvalidInput
from farm.pictures.images import decode_transparency, pixels

_NAME = "the mask"


def pixels_of(data: bytes) -> int:
    """How many pixels a mask has, by its header alone. Raises `InvalidInput` for too many."""
    with _of_the_mask():
        return pixels(data, name=_NAME)


def redone(data: bytes) -> bytes:
    """The same mask as the farm has it, which is white there. Raises `InvalidInput` for one that is opaque, or none."""
    with _of_the_mask():
        found = decode_transparency(data, name=_NAME)
    if found is None:
        raise InvalidInput("the mask has no transparency", field="mask", hint="what is transparent in it is made anew")
    file = io.BytesIO()
    found.save(file, "PNG")
    return file.getvalue()


@contextmanager
def _of_the_mask() -> Iterator[None]:
    """What is wrong with a mask is not said of the picture."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(error.reason, field="mask", hint=error.hint) from error
