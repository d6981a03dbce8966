"""Contact sheets: many pictures on one page, each with its prompt and how it was made beneath."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from farm.errors import InvalidInput
from farm.jobs.describe import BETWEEN, describe
from farm.pictures.images import decode
from farm.pictures.lettering import Lettering, Line
from farm.pictures.provenance import spec_in

MAX_TILES = 1_000
TILE = 256
GAP = 24
MARGIN = 40
PAPER, INK, FAINT = (250, 249, 246), (34, 34, 38), (128, 126, 122)
TITLE_SIZE, DETAIL_SIZE = 17, 13
LEADING = 1.35
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
        return round(LEADING * (len(self.title) * TITLE_SIZE + len(self.detail) * DETAIL_SIZE) + TITLE_SIZE * 0.6)


def tile_of(data: bytes, *, name: str) -> Tile:
    """The tile of an image file, captioned by the spec that a worker wrote into it, else by `name`.

    Raises `InvalidInput` if the bytes are not an image.
    """
    picture = fitted(decode(data, name=name))
    spec = spec_in(data)
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
    pictures = [[fitted(tile.picture) for tile in row] for row in rows]
    captions = [[_caption(tile, lettering) if labels else Caption() for tile in row] for row in rows]
    heights = [
        max(picture.height for picture in row) + (max(caption.height for caption in beneath) if labels else 0)
        for row, beneath in zip(pictures, captions, strict=True)
    ]
    page = Image.new(
        "RGB",
        (2 * MARGIN + columns * TILE + (columns - 1) * GAP, 2 * MARGIN + sum(heights) + (len(rows) - 1) * GAP),
        PAPER,
    )
    top = MARGIN
    for row, beneath, height in zip(pictures, captions, heights, strict=True):
        highest = max(picture.height for picture in row)
        for column, (picture, caption) in enumerate(zip(row, beneath, strict=True)):
            left = MARGIN + column * (TILE + GAP)
            page.paste(picture, (left + (TILE - picture.width) // 2, top + highest - picture.height))
            _write_caption(page, caption, lettering, left, top + highest)
        top += height + GAP
    return page


def fitted(picture: Image.Image) -> Image.Image:
    """The picture as large as a tile allows, its proportions kept."""
    scale = min(TILE / picture.width, TILE / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP)


def _caption(tile: Tile, lettering: Lettering) -> Caption:
    return Caption(
        lettering.lines(tile.title, TITLE_SIZE, width=TILE, most=_MOST_TITLE_LINES),
        _part_by_part(tile.detail, lettering),
    )


def _part_by_part(detail: str, lettering: Lettering) -> list[Line]:
    """The details in lines that are broken between parts: `guidance` and its number stand together."""
    lines: list[str] = []
    for part in detail.split(BETWEEN):
        longer = BETWEEN.join([*lines[-1:], part])
        fits = len(lettering.lines(longer, DETAIL_SIZE, width=TILE, most=2)) == 1
        if lines and (fits or len(lines) == _MOST_DETAIL_LINES):
            lines[-1] = longer
        else:
            lines.append(part)
    return [line for text in lines for line in lettering.lines(text, DETAIL_SIZE, width=TILE, most=1)]


def _write_caption(page: Image.Image, caption: Caption, lettering: Lettering, left: int, bottom: int) -> None:
    top = bottom + TITLE_SIZE * 0.5
    for lines, size, colour in ((caption.title, TITLE_SIZE, INK), (caption.detail, DETAIL_SIZE, FAINT)):
        for line in lines:
            begin = left if line.rightwards else left + TILE - line.width
            lettering.draw(page, line, begin, top, size, colour)
            top += size * LEADING
