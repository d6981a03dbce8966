"""Pictures as files: init images, bounded and checked the same way by the client and again by the worker."""

from __future__ import annotations

import hashlib
import io
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from PIL import ExifTags, Image, UnidentifiedImageError

from farm.errors import InvalidInput
from farm.pictures.colour import to_grey, to_srgb, to_srgb_with_alpha, transparency
from farm.pictures.metadata import Stripped, strip

T = TypeVar("T")

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 40_000_000
MAX_SIDE = 65_535
"""Pixels a side, which no JPEG exceeds: reading as many rows as a PNG could have takes more than its pixels do."""
_FORMATS = ("PNG", "JPEG", "WEBP")
_PNG_DEPTH = 24
"""Where a PNG says how many bits a sample has."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""


@dataclass(frozen=True)
class InitImage:
    """The bytes of a checked PNG, JPEG or WebP file, its size in pixels as one looks at it, and what to know of it."""

    data: bytes
    extension: str
    width: int
    height: int
    warnings: tuple[str, ...] = ()

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def read_init(path: Path) -> InitImage:
    """The init image at `path`. Raises `InvalidInput` if it is missing, too large, or no whole image."""
    return check_init(read_file(path), name=str(path))


def read_file(path: Path) -> bytes:
    """The bytes of a picture's file. Raises `InvalidInput` if it is missing, or too large."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe or a device may never end
            raise InvalidInput(f"{path} is not a file", field="init")
        if about.st_size > MAX_BYTES:
            raise InvalidInput(
                f"{path} has {about.st_size / 2**20:.0f} MiB, more than {MAX_BYTES // 2**20}", field="init"
            )
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)  # it may have grown, and files of /proc have no size
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput(f"{path} cannot be read: {reason}", field="init") from error


def check_init(data: bytes, *, name: str) -> InitImage:
    """Check bytes said to be an image, decoding all of them. Raises `InvalidInput` naming `name`."""
    picture, fault = _decoded(data, name)
    warnings = (f"the colour profile of {name} {fault}: its colours are taken as sRGB",) if fault else ()
    return InitImage(data, extension(data), *picture.size, warnings)


def pixels(data: bytes, *, name: str) -> int:
    """How many pixels an image has, by its header alone. Raises `InvalidInput` as `check_init` does, as far as it sees.

    Others than images have none.
    """
    try:
        with without_warnings(), _opened(strip(data).data, name) as opened:
            return opened.width * opened.height
    except InvalidInput:
        raise
    except Exception:  # what a decoder makes of hostile bytes; `check_init` says what is wrong
        return 0


def decode(data: bytes, *, name: str) -> Image.Image:
    """The picture in `data` in sRGB, upright by its EXIF tag, over white; of an animation, the first frame.

    Raises `InvalidInput` for more than 32 MiB, 40 megapixels or 65,535 a side, an unknown format or a broken file.
    The size is checked from the header, before any pixel is decoded. What else the file holds is not looked at.
    """
    return _decoded(data, name)[0]


def decode_with_alpha(data: bytes, *, name: str) -> Image.Image:
    """As `decode`, but what is transparent stays so: in RGBA, or in RGB if all of it is opaque."""

    def as_it_is(opened: Image.Image, file: Stripped) -> Image.Image:
        return _upright(to_srgb_with_alpha(opened, file.profile or opened.info.get("icc_profile")), opened)

    return _read(data, name, as_it_is)


def _decoded(data: bytes, name: str) -> tuple[Image.Image, str | None]:
    """The picture, and what is wrong with its colour profile."""

    def in_srgb(opened: Image.Image, file: Stripped) -> tuple[Image.Image, str | None]:
        picture, fault = to_srgb(opened, file.profile or opened.info.get("icc_profile"))
        return _upright(picture, opened), file.profile_fault or fault

    return _read(data, name, in_srgb)


def decode_mask(data: bytes, *, name: str) -> Image.Image:
    """The mask in `data` in grey (mode L), upright; what is transparent is black. Raises `InvalidInput` as `decode`."""
    return _read(data, name, lambda opened, _: _upright(to_grey(opened), opened))


def decode_transparency(data: bytes, *, name: str) -> Image.Image | None:
    """White where the picture in `data` is transparent and black where it is opaque (mode L), upright; None where no
    pixel of it can be transparent. Raises `InvalidInput` as `decode`."""

    def seen_through(opened: Image.Image, _: Stripped) -> Image.Image | None:
        found = transparency(opened)
        return None if found is None else _upright(found, opened)

    return _read(data, name, seen_through)


def _read(data: bytes, name: str, look: Callable[[Image.Image, Stripped], T]) -> T:
    """What is seen of the picture in `data`, all of whose pixels were decoded. Raises `InvalidInput` as `decode`."""
    if len(data) > MAX_BYTES:
        raise InvalidInput(f"{name} is larger than {MAX_BYTES // 2**20} MiB", field="init")
    try:
        file = strip(data)
        with without_warnings(), _opened(file.data, name) as opened:
            opened.load()
            return look(opened, file)
    except InvalidInput:
        raise
    except UnidentifiedImageError as error:
        raise InvalidInput(f"{name} is not a PNG, JPEG or WebP image", field="init") from error
    except Exception as error:  # what a decoder makes of hostile bytes
        raise InvalidInput(f"{name} is damaged: {error!s:.200}", field="init") from error


def _opened(data: bytes, name: str) -> Image.Image:
    """The picture of which only the header was read. Raises `InvalidInput` if it has too many pixels."""
    too_many = f"pixels, more than {MAX_PIXELS // 10**6} million"
    try:
        opened = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise InvalidInput(f"{name} has over {2 * (Image.MAX_IMAGE_PIXELS or 0):,} {too_many}", field="init") from error
    if opened.width * opened.height > MAX_PIXELS:
        raise InvalidInput(f"{name} has {opened.width}×{opened.height} {too_many}", field="init")
    if max(opened.size) > MAX_SIDE:
        long = f"{opened.width}×{opened.height} pixels, but a side may have at most {MAX_SIDE:,}"
        raise InvalidInput(f"{name} has {long}", field="init")
    _scale_transparency(opened, data)
    return opened


def _scale_transparency(opened: Image.Image, data: bytes) -> None:
    """Bring a PNG's transparent grey or colour to 8 bits, as Pillow brings its pixels and not this value."""
    transparent = opened.info.get("transparency")
    if opened.format != "PNG" or opened.mode not in ("L", "RGB") or transparent is None:
        return
    depth = data[_PNG_DEPTH]

    def to_8_bits(value: int) -> int:
        return value >> 8 if depth == 16 else min(value, 2**depth - 1) * 255 // (2**depth - 1)

    is_grey = isinstance(transparent, int)
    opened.info["transparency"] = to_8_bits(transparent) if is_grey else tuple(map(to_8_bits, transparent))


@contextmanager
def without_warnings() -> Iterator[None]:
    """Pillow warns of EXIF it cannot read, and of sizes of its own; here a picture is read or refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _upright(picture: Image.Image, opened: Image.Image) -> Image.Image:
    """The picture turned as the EXIF of the file says; as it is where that cannot be read."""
    try:
        turn = _TURNS.get(opened.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # EXIF can be anything, and none of it is worth losing a picture for
        return picture
    return picture if turn is None else picture.transpose(turn)


def extension(data: bytes) -> str:
    """Of a picture that was read: which of the formats it is."""
    return "png" if data.startswith(b"\x89PNG") else "jpeg" if data.startswith(b"\xff\xd8") else "webp"
