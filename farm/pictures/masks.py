"""Masks: pictures that say what of an init image is redone. Checked as they are submitted, and by the worker."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops

from farm.errors import InvalidInput
from farm.jobs.spec import MAX_SIDE, Redo
from farm.pictures import images
from farm.pictures.images import InitImage

_WHITE = 255
_HOW = "a mask is white where the picture is redone, and black where it stays as it is"


@dataclass(frozen=True)
class Mask:
    """A checked mask, and how dark and how bright its pixels are at most, 0 to 255."""

    image: InitImage
    darkest: int
    brightest: int

    def is_empty(self, redo: Redo) -> bool:
        """Whether nothing is redone."""
        return self.brightest == 0 if redo == "white" else self.darkest == _WHITE

    def is_full(self, redo: Redo) -> bool:
        """Whether all is redone."""
        return self.darkest == _WHITE if redo == "white" else self.brightest == 0


def read_mask(path: Path) -> Mask:
    """The mask at `path`. Raises `InvalidInput` as `check_mask`, and if the file cannot be read."""
    with _of_the_mask():
        data = images.read_file(path)
    return check_mask(data, name=str(path))


def check_mask(data: bytes, *, name: str) -> Mask:
    """Check bytes said to be a mask, decoding all of them. Raises `InvalidInput` naming `name`."""
    with _of_the_mask():
        mask = images.decode_mask(data, name=name)
    return _measured(mask, data)


def mask_of_transparency(picture: InitImage) -> Mask:
    """The mask by which what is transparent in a picture is redone. Raises `InvalidInput` if nothing of it can be."""
    with _of_the_mask():
        found = images.decode_transparency(picture.data, name="the init picture")
    if found is None:
        raise InvalidInput(
            "the init picture has no transparency", field="mask", hint="save it with an alpha channel, or give a mask"
        )
    file = io.BytesIO()
    found.save(file, "PNG")
    return _measured(found, file.getvalue())


def decode(data: bytes, *, name: str, redo: Redo = "white") -> Image.Image:
    """The mask in `data` (mode L), white where the picture is redone. Raises `InvalidInput` as `check_mask`."""
    with _of_the_mask():
        mask = images.decode_mask(data, name=name)
    return mask if redo == "white" else ImageChops.invert(mask)


def check_pair(mask: Mask, picture: InitImage, redo: Redo) -> None:
    """Raise `InvalidInput` unless a mask has the size of its picture, and something of that is redone."""
    size, expected = (mask.image.width, mask.image.height), (picture.width, picture.height)
    if size != expected:
        raise _another_size(size, expected)
    if mask.is_empty(redo):
        raise nothing_is_redone()


def check_size(mask: Image.Image, picture: Image.Image) -> None:
    """Raise `InvalidInput` unless a mask has the size of its picture."""
    if mask.size != picture.size:
        raise _another_size(mask.size, picture.size)


def check_grown(width: int, height: int) -> None:
    """Raise `InvalidInput` for a picture that would grow beyond what a side may have, in pixels."""
    if max(width, height) > MAX_SIDE:
        raise InvalidInput(
            f"the picture would have {width:,}×{height:,} pixels, and a side may have at most {MAX_SIDE:,}",
            field="outpaint",
            hint="let it grow by less, or make the init picture smaller",
        )


def nothing_is_redone() -> InvalidInput:
    return InvalidInput("nothing of the picture is redone", field="mask", hint=f"{_HOW}; --invert-mask turns it round")


def _another_size(size: tuple[int, int], expected: tuple[int, int]) -> InvalidInput:
    (width, height), (own_width, own_height) = size, expected
    return InvalidInput(
        f"the mask has {width}×{height} pixels, and the picture {own_width}×{own_height}",
        field="mask",
        hint="make the mask of the picture's size: both are fitted to the job alike",
    )


def _measured(mask: Image.Image, data: bytes) -> Mask:
    levels = [level for level, pixels in enumerate(mask.histogram()) if pixels]
    return Mask(InitImage(data, images.extension(data), *mask.size), levels[0], levels[-1])


@contextmanager
def _of_the_mask() -> Iterator[None]:
    """What is wrong with a mask is not said of the init picture."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(error.reason, field="mask", hint=error.hint) from error
