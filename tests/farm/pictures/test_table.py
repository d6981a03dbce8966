"""Sheets with axes: what stands where, what is in an empty cell, and bounds."""

from __future__ import annotations

import pytest
from PIL import Image, ImageChops

from farm.errors import InvalidInput
from farm.pictures.fonts import Fonts
from farm.pictures.lettering import Lettering
from farm.pictures.sheet import GAP, MARGIN, PAPER, TILE
from farm.pictures.table import Cell, Page, Table, check_size, drawn

COLOURS = ["red", "lime", "blue", "cyan", "magenta", "yellow"]
LEFT = MARGIN + 168 + GAP
"""Where the first column begins, beside the names of the rows."""


def plain(colour: str, size: tuple[int, int] = (64, 64)) -> Cell:
    return Cell(Image.new("RGB", size, colour))


def table(*rows: list[Cell], title: str = "an otter", pages: int = 1) -> Table:
    return Table(
        title,
        "seed 7",
        [f"guidance {column}" for column in range(len(rows[0]))],
        [f"steps {row}" for row in range(len(rows))],
        [Page(f"sampler {page}" if pages > 1 else "", rows) for page in range(pages)],
    )


def boxes(page: Image.Image, colour: str) -> tuple[int, int, int, int]:
    """Where a plain colour is: left, top, right, bottom."""
    flat = Image.new("RGB", page.size, colour)
    same = ImageChops.difference(page, flat).convert("L").point(lambda value: 255 * (value == 0))
    return same.getbbox() or (0, 0, 0, 0)


def test_every_picture_is_where_its_row_and_column_cross() -> None:
    page = drawn(table([plain(colour) for colour in COLOURS[:3]], [plain(colour) for colour in COLOURS[3:]]))
    assert page.width == LEFT + 3 * (TILE + GAP) - GAP + MARGIN
    found = [boxes(page, colour) for colour in COLOURS]
    assert all((right - left, bottom - top) == (TILE, TILE) for left, top, right, bottom in found)
    assert [box[0] for box in found] == [LEFT + column * (TILE + GAP) for column in range(3)] * 2
    assert len({box[1] for box in found[:3]}) == len({box[1] for box in found[3:]}) == 1
    assert found[3][1] - found[0][1] == TILE + GAP
    assert page.height == found[3][3] + GAP + MARGIN


def test_rows_and_columns_are_named_beside_and_above() -> None:
    page = drawn(table([plain("red"), plain("blue")]))
    left, top, _, bottom = boxes(page, "red")
    beside = page.crop((MARGIN, top, left, bottom))
    above = page.crop((left, top - 30, left + TILE, top))
    for place in (beside, above):
        assert len(place.getcolors(100_000) or ()) > 2, "there are letters"
    unnamed = drawn(Table("", "", ["a"], [""], [Page("", [[plain("red")]])]))
    assert boxes(unnamed, "red")[0] == MARGIN


def test_a_missing_picture_is_an_empty_cell_that_says_why() -> None:
    page = drawn(table([plain("red"), Cell(note="failed: out of memory"), Cell()]))
    _, top, _, bottom = boxes(page, "red")
    told, silent = (
        page.crop((left, top, left + TILE, bottom)) for left in (LEFT + TILE + GAP, LEFT + 2 * (TILE + GAP))
    )
    assert told.getpixel((0, 0)) == silent.getpixel((0, 0)) != PAPER, "it has an edge"
    assert len(silent.getcolors() or ()) == 2
    assert len(told.getcolors(100_000) or ()) > 2


def test_what_is_long_stays_in_its_place() -> None:
    long = "w" * 3_000
    made = Table(long, long, [long, "b"], [long], [Page(long, [[plain("red"), Cell(note=long)]])])
    page = drawn(made)
    for edge in ((0, 0, MARGIN, page.height), (page.width - MARGIN, 0, page.width, page.height)):
        assert page.crop(edge).getcolors() == [(MARGIN * page.height, PAPER)]
    left, top, right, bottom = boxes(page, "red")
    assert (right - left, bottom - top) == (TILE, TILE), "nothing is written over it"


def test_pages_are_one_below_the_other() -> None:
    two, three, four = (drawn(table([plain("red")], pages=pages)) for pages in (2, 3, 4))
    each = three.height - two.height
    assert each == four.height - three.height > TILE
    left, top, _, bottom = boxes(two, "red")
    assert bottom - top == each + TILE
    title = two.crop((MARGIN, bottom - TILE - 80, left, bottom - TILE))
    assert len(title.getcolors(100_000) or ()) > 2, "there are letters"


@pytest.mark.parametrize(("size", "shown"), [((64, 32), (256, 128)), ((10, 1000), (3, 256)), ((600, 300), (256, 128))])
def test_a_row_is_as_high_as_its_pictures(size: tuple[int, int], shown: tuple[int, int]) -> None:
    page = drawn(table([plain("red", size), Cell(note="queued")]))
    left, top, right, bottom = boxes(page, "red")
    assert (right - left, bottom - top) == shown
    assert page.height == bottom + GAP + MARGIN


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((101, 1), "101 columns are more than 100"),
        ((100, 11), "100 columns and 11 rows make 1,100 cells, more than 1,000"),
        ((10, 51, 2), "10 columns and 51 rows on 2 pages make 1,020 cells, more than 1,000"),
    ],
)
def test_too_many_cells_are_refused(size: tuple[int, ...], said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_size(*size)
    assert caught.value.message == said
    check_size(100, 10)


def test_signs_that_no_font_has_are_told_to_the_caller() -> None:
    lettering = Lettering(Fonts([]))
    drawn(Table("水", "", ["獺"], ["字"], [Page("é", [[Cell(note="ł")]])]), lettering)
    assert lettering.missing == {"水", "獺", "字", "é", "ł"}
