"""Pictures as files: init images, bounded and checked the same way by the client and again by the worker."""

from __future__ import annotations

import hashlib
import io
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from farm.errors import InvalidInput

SPEC_KEY = "render-farm"
"""The PNG text in which workers write a picture's spec."""

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 40_000_000
_FORMATS = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True)
class InitImage:
    """The bytes of a checked PNG, JPEG or WebP file."""

    data: bytes
    extension: str
    width: int
    height: int

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def read_init(path: Path) -> InitImage:
    """The init image at `path`. Raises `InvalidInput` if it is missing, too large, or no whole image."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe or a device may never end
            raise InvalidInput(f"{path} is not a file", field="init")
        if about.st_size > MAX_BYTES:
            raise InvalidInput(
                f"{path} has {about.st_size / 2**20:.0f} MiB, more than {MAX_BYTES // 2**20}", field="init"
            )
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)  # it may have grown, and files of /proc have no size
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput(f"{path} cannot be read: {reason}", field="init") from error
    return check_init(data, name=str(path))


def check_init(data: bytes, *, name: str) -> InitImage:
    """Check bytes said to be an image, decoding all of them. Raises `InvalidInput` naming `name`."""
    picture = decode(data, name=name)
    return InitImage(data, _extension(data), *picture.size)


def decode(data: bytes, *, name: str) -> Image.Image:
    """The RGB picture in `data`, upright by its EXIF tag, transparency over white; of an animation, its first frame.

    Raises `InvalidInput` for more than 32 MiB or 40 megapixels, an unknown format or a broken file.
    The size is checked from the header, before any pixel is decoded.
    """
    if len(data) > MAX_BYTES:
        raise InvalidInput(f"{name} is larger than {MAX_BYTES // 2**20} MiB", field="init")
    try:
        with without_warnings(), _opened(data, name) as opened:
            upright = ImageOps.exif_transpose(opened)
            return _over_white(upright)
    except InvalidInput:
        raise
    except UnidentifiedImageError as error:
        raise InvalidInput(f"{name} is not a PNG, JPEG or WebP image", field="init") from error
    except Exception as error:  # what a decoder, or a reader of EXIF, makes of hostile bytes
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
    return opened


@contextmanager
def without_warnings() -> Iterator[None]:
    """Pillow warns of EXIF it cannot read, and of sizes of its own; here a picture is read or refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _over_white(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    with_alpha = picture.convert("RGBA")
    white = Image.new("RGBA", with_alpha.size, "white")
    return Image.alpha_composite(white, with_alpha).convert("RGB")


def _extension(data: bytes) -> str:
    with without_warnings(), Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
        # Phones write JPEG files that hold a second picture, which Pillow calls MPO.
        return {"MPO": "jpeg"}.get(str(opened.format), str(opened.format).lower())
