"""A sheet with axes as one HTML file, in which every cell opens: pictures, style and script are all in it."""

from __future__ import annotations

from collections.abc import Iterator

from farm.errors import InvalidInput
from farm.pages.html import rendered
from farm.pictures.images import extension
from farm.pictures.table import Cell, Page, Table

MAX_PICTURE_BYTES = 256 * 2**20
"""Of all pictures together: browsers open no file that is much larger."""


def written(table: Table) -> str:
    """The page. Raises `InvalidInput` if its pictures have over 256 MiB."""
    total = sum(len(cell.data) for page in table.pages for row in page.cells for cell in row)
    if total > MAX_PICTURE_BYTES:
        reason = f"the pictures have {total / 2**20:,.0f} MiB, and a page takes {MAX_PICTURE_BYTES // 2**20}"
        raise InvalidInput(reason, hint="make pages of fewer jobs")
    heading = table.title or " · ".join(page.title for page in table.pages if page.title) or "A sheet of pictures"

    def rows(page: Page) -> Iterator[tuple[str, list[tuple[str, Cell]]]]:
        for row, cells in zip(table.rows, page.cells, strict=True):
            places = (", ".join(filter(None, (column, row, page.title))) for column in table.columns)
            yield row, list(zip(places, cells, strict=True))

    return rendered(
        "table", style="table.css", scripts=("table.js",), table=table, heading=heading, rows=rows, kind=_kind
    )


def _kind(cell: Cell) -> str:
    return f"image/{extension(cell.data)}"
