"""Contact sheets: many pictures on one page, each with its prompt and how it was made beneath."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from farm.errors import InvalidInput
from farm.jobs.describe import describe
from farm.jobs.spec import JobSpec
from farm.pictures.images import SPEC_KEY, decode
from farm.pictures.lettering import Lettering, Line
from farm.pictures.metadata import read_text

MAX_TILES = 1_000
_TILE = 256
_GAP = 24
_MARGIN = 40
_PAPER, _INK, _FAINT = (250, 249, 246), (34, 34, 38), (128, 126, 122)
_TITLE_SIZE, _DETAIL_SIZE = 17, 13
_LEADING = 1.35
_MOST_TITLE_LINES, _MOST_DETAIL_LINES = 3, 3
_REDUCING_GAP = 3.0
"""A larger picture is halved, thirded… to this times a tile's size first, which takes no time and shows in no pixel."""


@dataclass(frozen=True)
class Tile:
    """One picture, of any size, with a caption: a title (the prompt) and a fainter line of details."""

    picture: Image.Image
    title: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Caption:
    """The lines beneath a picture."""

    title: Sequence[Line] = ()
    detail: Sequence[Line] = ()

    @property
    def height(self) -> int:
        """In pixels, with the space above it."""
        return round(_LEADING * (len(self.title) * _TITLE_SIZE + len(self.detail) * _DETAIL_SIZE) + _TITLE_SIZE * 0.6)


def tile_of(data: bytes, *, name: str) -> Tile:
    """The tile of an image file, captioned by the spec that a worker wrote into it, else by `name`.

    Raises `InvalidInput` if the bytes are not an image.
    """
    picture = _fitted(decode(data, name=name))
    spec = _spec_in(data)
    return Tile(picture, title=spec.prompt, detail=describe(spec)) if spec else Tile(picture, title=Path(name).name)


def contact_sheet(
    tiles: Sequence[Tile], *, columns: int | None = None, labels: bool = True, lettering: Lettering | None = None
) -> Image.Image:
    """The tiles in rows of `columns` (by default, about as wide as high).

    The `lettering`, by default of this machine's fonts, keeps what signs of the captions it could not write.
    Raises `InvalidInput` for no tiles, or over 1,000.
    """
    if not 1 <= len(tiles) <= MAX_TILES:
        raise InvalidInput(f"a sheet takes 1 to {MAX_TILES:,} pictures, not {len(tiles):,}")
    columns = min(columns or math.ceil(math.sqrt(len(tiles) * 1.4)), len(tiles))
    lettering = lettering or Lettering()
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    pictures = [[_fitted(tile.picture) for tile in row] for row in rows]
    captions = [[_caption(tile, lettering) if labels else Caption() for tile in row] for row in rows]
    heights = [
        max(picture.height for picture in row) + (max(caption.height for caption in beneath) if labels else 0)
        for row, beneath in zip(pictures, captions, strict=True)
    ]
    page = Image.new(
        "RGB",
        (2 * _MARGIN + columns * _TILE + (columns - 1) * _GAP, 2 * _MARGIN + sum(heights) + (len(rows) - 1) * _GAP),
        _PAPER,
    )
    top = _MARGIN
    for row, beneath, height in zip(pictures, captions, heights, strict=True):
        highest = max(picture.height for picture in row)
        for column, (picture, caption) in enumerate(zip(row, beneath, strict=True)):
            left = _MARGIN + column * (_TILE + _GAP)
            page.paste(picture, (left + (_TILE - picture.width) // 2, top + highest - picture.height))
            _write_caption(page, caption, lettering, left, top + highest)
        top += height + _GAP
    return page


def _spec_in(data: bytes) -> JobSpec | None:
    text = read_text(data, SPEC_KEY)
    try:
        return JobSpec.from_json(text) if text else None
    except InvalidInput:
        return None  # a picture of another version, or another's: it is shown all the same


def _fitted(picture: Image.Image) -> Image.Image:
    """As large as a tile allows, its proportions kept."""
    scale = min(_TILE / picture.width, _TILE / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP)


def _caption(tile: Tile, lettering: Lettering) -> Caption:
    return Caption(
        lettering.lines(tile.title, _TITLE_SIZE, width=_TILE, most=_MOST_TITLE_LINES),
        lettering.lines(tile.detail, _DETAIL_SIZE, width=_TILE, most=_MOST_DETAIL_LINES),
    )


def _write_caption(page: Image.Image, caption: Caption, lettering: Lettering, left: int, bottom: int) -> None:
    top = bottom + _TITLE_SIZE * 0.5
    for lines, size, colour in ((caption.title, _TITLE_SIZE, _INK), (caption.detail, _DETAIL_SIZE, _FAINT)):
        for line in lines:
            begin = left if line.rightwards else left + _TILE - line.width
            lettering.draw(page, line, begin, top, size, colour)
            top += size * _LEADING
