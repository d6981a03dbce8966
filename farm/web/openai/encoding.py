"""Pictures as the files that a program asks for."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from farm.pictures.images import decode

Format = Literal["png", "jpeg", "webp"]


@dataclass(frozen=True)
class Encoding:
    """A format, and for those that lose something how little they are to lose, 0 to 100."""

    format: Format
    quality: int

    @property
    def media_type(self) -> str:
        return f"image/{self.format}"

    def of_png(self, data: bytes) -> bytes:
        """A picture of the farm's, which is a PNG that says how it was made, and stays one if that is asked for.

        Raises `InvalidInput` for what is no picture.
        """
        return data if self.format == "png" else self.of(decode(data, name="the picture"))

    def of(self, picture: Image.Image) -> bytes:
        file = io.BytesIO()
        options = {} if self.format == "png" else {"quality": self.quality}
        picture.save(file, self.format.upper(), **options)
        return file.getvalue()
