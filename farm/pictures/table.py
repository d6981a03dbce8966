"""Sheets with axes: a picture where a row and a column cross, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw

from farm.errors import InvalidInput
from farm.pictures.lettering import Lettering, Line
from farm.pictures.sheet import (
    DETAIL_SIZE,
    FAINT,
    GAP,
    INK,
    LEADING,
    MARGIN,
    MAX_TILES,
    PAPER,
    TILE,
    TITLE_SIZE,
    fitted,
)

MAX_COLUMNS = 100
_SIDE = 168
"""Pixels of the column that names the rows."""
_HEAD_SIZE, _PAGE_SIZE = 22, 19
_MOST_LINES, _MOST_NOTE_LINES = 4, 8
_EMPTY, _EDGE, _NOTE = (242, 240, 235), (214, 211, 204), (92, 90, 86)

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Cell:
    """A picture with what is to be said of it; or, without one, `note`: why there is none."""

    picture: Image.Image | None = None
    note: str = ""
    name: str = ""
    title: str = ""
    detail: str = ""
    data: bytes = field(default=b"", repr=False)
    """The picture's file, for whoever shows it as it is."""


@dataclass(frozen=True)
class Page:
    """Cells by row and column, under a title that tells the page from others."""

    title: str
    cells: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Table:
    """Pages of the same rows and columns. `title` and `detail` say what all of the pictures have in common."""

    title: str
    detail: str
    columns: Sequence[str]
    rows: Sequence[str]
    pages: Sequence[Page]


def check_size(columns: int, rows: int, pages: int = 1) -> None:
    """Raise `InvalidInput` for over 100 columns or over 1,000 cells."""
    if columns > MAX_COLUMNS:
        raise InvalidInput(f"{columns:,} columns are more than {MAX_COLUMNS}", hint="give the longer axis to --y")
    if (cells := columns * rows * pages) > MAX_TILES:
        said = f"{columns:,} columns and {rows:,} rows" + (f" on {pages:,} pages" if pages > 1 else "")
        raise InvalidInput(f"{said} make {cells:,} cells, more than {MAX_TILES:,}", hint="name fields of fewer values")


def drawn(table: Table, lettering: Lettering | None = None) -> Image.Image:
    """The table as one picture, its pages one below the other.

    The `lettering`, by default of this machine's fonts, keeps what signs of the words it could not write.
    Raises `InvalidInput` for over 100 columns or over 1,000 cells.
    """
    check_size(len(table.columns), len(table.rows), len(table.pages))
    drawing = _Drawing(lettering or Lettering(), table)
    strips = [drawing.words(table.title, _HEAD_SIZE, INK), drawing.words(table.detail, DETAIL_SIZE, FAINT)]
    for page in table.pages:
        strips += [drawing.words(page.title, _PAGE_SIZE, INK, above=GAP), drawing.headings(table.columns)]
        strips += [drawing.row(name, cells) for name, cells in zip(table.rows, page.cells, strict=True)]
    return _stacked([strip for strip in strips if strip.height])


class _Drawing:
    """Draws a table strip by strip, each as wide as all of it and as high as its own part."""

    def __init__(self, lettering: Lettering, table: Table) -> None:
        self._lettering = lettering
        self._side = _SIDE + GAP if any(table.rows) else 0
        self._width = self._side + len(table.columns) * (TILE + GAP) - GAP

    def words(self, text: str, size: int, colour: Colour, *, above: int = 0) -> Image.Image:
        """Words over the whole width, with so much space above them; without any, a strip of no height."""
        lines = self._lettering.lines(text, size, width=self._width, most=_MOST_LINES)
        strip = self._strip(above + _high(lines, size) if lines else 0)
        self._write(strip, lines, size, colour, left=0, top=above)
        return strip

    def headings(self, columns: Sequence[str]) -> Image.Image:
        """A name in the middle of each column, all of them ending at the same height."""
        named = [self._lettering.lines(name, TITLE_SIZE, width=TILE, most=_MOST_LINES) for name in columns]
        strip = self._strip(max(_high(lines, TITLE_SIZE) for lines in named))
        for column, lines in enumerate(named):
            top = strip.height - _high(lines, TITLE_SIZE)
            self._write(strip, lines, TITLE_SIZE, INK, left=self._left(column), top=top, width=TILE)
        return strip

    def row(self, name: str, cells: Sequence[Cell]) -> Image.Image:
        """The row's name, and its cells, which are as high as the highest of its pictures."""
        pictures = [None if cell.picture is None else fitted(cell.picture) for cell in cells]
        height = max((picture.height for picture in pictures if picture), default=TILE)
        lines = self._lettering.lines(name, TITLE_SIZE, width=_SIDE, most=_MOST_LINES)
        strip = self._strip(height + GAP)
        self._write(strip, lines, TITLE_SIZE, INK, left=0, top=_middle(lines, TITLE_SIZE, height))
        for column, (cell, picture) in enumerate(zip(cells, pictures, strict=True)):
            left = self._left(column)
            if picture is None:
                self._note(strip, cell.note, left, height)
            else:
                strip.paste(picture, (left + (TILE - picture.width) // 2, (height - picture.height) // 2))
        return strip

    def _note(self, strip: Image.Image, note: str, left: int, height: int) -> None:
        """An empty cell that says why it is empty."""
        ImageDraw.Draw(strip).rectangle((left, 0, left + TILE - 1, height - 1), fill=_EMPTY, outline=_EDGE)
        most = max(1, min(_MOST_NOTE_LINES, int(height / (DETAIL_SIZE * LEADING)) - 1))
        lines = self._lettering.lines(note, DETAIL_SIZE, width=TILE - 2 * GAP, most=most)
        top = _middle(lines, DETAIL_SIZE, height)
        self._write(strip, lines, DETAIL_SIZE, _NOTE, left=left + GAP, top=top, width=TILE - 2 * GAP)

    def _write(
        self,
        strip: Image.Image,
        lines: Sequence[Line],
        size: int,
        colour: Colour,
        *,
        left: int,
        top: float,
        width: int | None = None,
    ) -> None:
        """Write lines from the left, or in the middle of `width`."""
        for line in lines:
            begin = left + (width - line.width) / 2 if width else left
            self._lettering.draw(strip, line, begin, top, size, colour)
            top += size * LEADING

    def _left(self, column: int) -> int:
        return self._side + column * (TILE + GAP)

    def _strip(self, height: int) -> Image.Image:
        return Image.new("RGB", (self._width, height), PAPER)


def _stacked(strips: Sequence[Image.Image]) -> Image.Image:
    """The strips one below the other, with a margin around them."""
    width = 2 * MARGIN + max(strip.width for strip in strips)
    page = Image.new("RGB", (width, 2 * MARGIN + sum(strip.height for strip in strips)), PAPER)
    top = MARGIN
    for strip in strips:
        page.paste(strip, (MARGIN, top))
        top += strip.height
    return page


def _high(lines: Sequence[Line], size: int) -> int:
    """Of lines with the space below them; of none, nothing."""
    return round(size * (LEADING * len(lines) + 0.7)) if lines else 0


def _middle(lines: Sequence[Line], size: int, height: int) -> float:
    """Where lines begin that are in the middle of a height."""
    return (height - len(lines) * size * LEADING) / 2
