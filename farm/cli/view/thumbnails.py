"""Small pictures in a terminal: two pixels a character, one above the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from PIL import Image
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from farm.bucket.preview import Preview

COLUMNS = 32
LINES = COLUMNS // 2 + 1
"""Of a row of thumbnails with their captions."""
_GAP = 2
_UPPER_HALF = "▀"


class Thumbnail:
    """A preview, fitted into a square of `COLUMNS` characters' width."""

    def __init__(self, preview: Preview) -> None:
        self.moment = preview.moment
        self._caption = Text(preview.job, style="dim")
        self._lines = [list(line) for line in _drawn(_fitted(preview.picture))]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._lines:
            yield from line
            yield Segment.line()
        yield self._caption

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(COLUMNS, COLUMNS)


def how_many(width: int) -> int:
    """How many thumbnails stand side by side in this many columns."""
    return (width + _GAP) // (COLUMNS + _GAP)


def row(thumbnails: Sequence[Thumbnail]) -> Table:
    """Thumbnails side by side."""
    grid = Table.grid(padding=(0, _GAP, 0, 0))
    for _ in thumbnails:
        grid.add_column(width=COLUMNS, vertical="bottom")
    grid.add_row(*thumbnails)
    return grid


def _fitted(picture: Image.Image) -> Image.Image:
    """The picture with its longer side of `COLUMNS` pixels, and an even height."""
    scale = COLUMNS / max(picture.size)
    width, height = max(1, round(scale * picture.width)), max(2, 2 * round(scale * picture.height / 2))
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _drawn(picture: Image.Image) -> Iterable[Iterable[Segment]]:
    for y in range(0, picture.height, 2):
        yield (
            Segment(_UPPER_HALF, Style(color=_color(picture, x, y), bgcolor=_color(picture, x, y + 1)))
            for x in range(picture.width)
        )


def _color(picture: Image.Image, x: int, y: int) -> Color:
    pixel = picture.getpixel((x, y))
    assert isinstance(pixel, tuple), "the picture is RGB"
    return Color.from_rgb(*pixel)
