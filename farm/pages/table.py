"""A sheet with axes as one HTML file, in which every cell opens: pictures, style and script are all in it.

Prompts are the words of strangers. They are escaped, and a policy lets the browser run the page's own script and
nothing else, load nothing, and send nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from html import escape
from importlib import resources
from string import Template

from farm.errors import InvalidInput
from farm.pictures.images import extension
from farm.pictures.table import Cell, Page, Table
from farm.words import one_line

MAX_PICTURE_BYTES = 256 * 2**20
"""Of all pictures together: browsers open no file that is much larger."""


def written(table: Table) -> str:
    """The page. Raises `InvalidInput` if its pictures have over 256 MiB."""
    total = sum(len(cell.data) for page in table.pages for row in page.cells for cell in row)
    if total > MAX_PICTURE_BYTES:
        reason = f"the pictures have {total / 2**20:,.0f} MiB, and a page takes {MAX_PICTURE_BYTES // 2**20}"
        raise InvalidInput(reason, hint="make pages of fewer jobs")
    template = resources.files("farm.pages").joinpath("web/table.html").read_text(encoding="utf-8")
    heading = table.title or " · ".join(page.title for page in table.pages if page.title) or "A sheet of pictures"
    return Template(template).substitute(
        policy=_policy(template),
        title=_text(heading),
        heading=_text(heading),
        detail=_text(table.detail),
        pages="\n".join(_section(table, page) for page in table.pages),
        turning=", Page Up and Page Down to the same cell of another page" if len(table.pages) > 1 else "",
    )


def _policy(template: str) -> str:
    """Only this very script and this very style may act."""
    script, style = (_digest(template, tag) for tag in ("script", "style"))
    return (
        f"default-src 'none'; img-src data:; script-src '{script}'; style-src '{style}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(template: str, tag: str) -> str:
    found = re.search(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
    assert found, "the template has one of each"
    return "sha256-" + base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()


def _section(table: Table, page: Page) -> str:
    title = f'<h2 dir="auto">{_text(page.title)}</h2>\n' if page.title else ""
    name = _text(page.title or table.title or "pictures")
    scroll = f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">'
    return f"<section>\n{title}{scroll}\n<table>\n{''.join(_rows(table, page))}</table>\n</div>\n</section>"


def _rows(table: Table, page: Page) -> Iterator[str]:
    names = "".join(f'<th scope="col" dir="auto">{_text(name)}</th>' for name in table.columns)
    yield f"<thead><tr><td></td>{names}</tr></thead>\n<tbody>\n"
    for row, cells in zip(table.rows, page.cells, strict=True):
        shown = "".join(
            _cell(cell, ", ".join(filter(None, (column, row, page.title))))
            for column, cell in zip(table.columns, cells, strict=True)
        )
        yield f'<tr><th scope="row" dir="auto">{_text(row)}</th>{shown}</tr>\n'
    yield "</tbody>\n"


def _cell(cell: Cell, place: str) -> str:
    if not cell.data:
        return f'<td class="empty">{_text(cell.note)}</td>'
    kind = f"image/{extension(cell.data)}"
    picture = f"data:{kind};base64,{base64.b64encode(cell.data).decode()}"
    said = {"place": place, "title": cell.title, "detail": cell.detail, "name": cell.name}
    data = " ".join(f'data-{name}="{_text(text)}"' for name, text in said.items())
    return f'<td><button type="button" class="cell" {data}><img src="{picture}" alt="{_text(place)}"></button></td>'


def _text(text: str) -> str:
    return escape(one_line(text))
