"""Contact sheets: many pictures on one page, each with its prompt and how it was made beneath."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from farm.errors import InvalidInput
from farm.images import SPEC_KEY, decode
from farm.metadata import read_text
from farm.spec import JobSpec

MAX_TILES = 1_000
_TILE = 256
_GAP = 24
_MARGIN = 40
_PAPER, _INK, _FAINT = (250, 249, 246), (34, 34, 38), (128, 126, 122)
_TITLE_SIZE, _DETAIL_SIZE = 17, 13
_LEADING = 1.35
_MOST_TITLE_LINES = 3

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Tile:
    """One picture, of any size, with a caption: a title (the prompt) and a fainter line of details."""

    picture: Image.Image
    title: str = ""
    detail: str = ""


def tile_of(data: bytes, *, name: str) -> Tile:
    """The tile of an image file, captioned by the spec that a worker wrote into it, else by `name`.

    Raises `InvalidInput` if the bytes are no image.
    """
    picture = _fitted(decode(data, name=name))
    spec = _spec_in(data)
    return Tile(picture, title=spec.prompt, detail=describe(spec)) if spec else Tile(picture, title=Path(name).name)


def describe(spec: JobSpec) -> str:
    """`mix · seed 7 · 30 steps · lms · blue x200`."""
    parts = [spec.mode, f"seed {spec.seed}", f"{spec.steps_to_do} steps", spec.sampler]
    parts += [f"{loss.name} x{loss.scale:g}" for loss in spec.guidance.losses]
    return " · ".join(parts)


def contact_sheet(tiles: Sequence[Tile], *, columns: int | None = None, labels: bool = True) -> Image.Image:
    """The tiles in rows of `columns` (by default, about as wide as high).

    Raises `InvalidInput` for no tiles, or over 1,000.
    """
    if not 1 <= len(tiles) <= MAX_TILES:
        raise InvalidInput(f"a sheet takes 1 to {MAX_TILES:,} pictures, not {len(tiles):,}")
    columns = min(columns or math.ceil(math.sqrt(len(tiles) * 1.4)), len(tiles))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    pictures = [[_fitted(tile.picture) for tile in row] for row in rows]
    heights = [
        max(picture.height for picture in row) + (max(map(_caption_height, captions)) if labels else 0)
        for row, captions in zip(pictures, rows, strict=True)
    ]
    page = Image.new(
        "RGB",
        (2 * _MARGIN + columns * _TILE + (columns - 1) * _GAP, 2 * _MARGIN + sum(heights) + (len(rows) - 1) * _GAP),
        _PAPER,
    )
    draw = ImageDraw.Draw(page)
    top = _MARGIN
    for row, captions, height in zip(pictures, rows, heights, strict=True):
        highest = max(picture.height for picture in row)
        for column, (picture, tile) in enumerate(zip(row, captions, strict=True)):
            left = _MARGIN + column * (_TILE + _GAP)
            page.paste(picture, (left + (_TILE - picture.width) // 2, top + highest - picture.height))
            if labels:
                _write_caption(draw, tile, left, top + highest)
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
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _caption_height(tile: Tile) -> int:
    titles = len(_wrapped(tile.title, _font(_TITLE_SIZE), _MOST_TITLE_LINES))
    details = len(_wrapped(tile.detail, _font(_DETAIL_SIZE), 2))
    return round(_LEADING * (titles * _TITLE_SIZE + details * _DETAIL_SIZE) + _TITLE_SIZE * 0.6)


def _write_caption(draw: ImageDraw.ImageDraw, tile: Tile, left: int, bottom: int) -> None:
    top = bottom + _TITLE_SIZE * 0.5
    for text, size, colour, most in (
        (tile.title, _TITLE_SIZE, _INK, _MOST_TITLE_LINES),
        (tile.detail, _DETAIL_SIZE, _FAINT, 2),
    ):
        for line in _wrapped(text, _font(size), most):
            draw.text((left, top), line, fill=colour, font=_font(size))
            top += size * _LEADING


def _wrapped(text: str, font: Font, most: int) -> list[str]:
    """The text in lines that a tile is wide enough for; what is beyond `most` lines ends in an ellipsis."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < most:
        fitting = len(words)
        while fitting > 1 and font.getlength(" ".join(words[:fitting])) > _TILE:
            fitting -= 1
        lines.append(" ".join(words[:fitting]))
        words = words[fitting:]
    if words:
        lines[-1] += " …"
    return [_cut(line, font) for line in lines]


def _cut(line: str, font: Font) -> str:
    while font.getlength(line) > _TILE:
        line = line.rstrip(" …")[:-1] + "…"
    return line


@cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size)
