"""The report in a terminal: its tables fit the width, where Markdown's would be broken in mid-row."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Group
from rich.text import Text

from farm.cli.view.columns import Columns


def shown(page: str) -> Group:
    """The lines of a page in Markdown, and its tables as columns."""
    parts = [(is_table, list(lines)) for is_table, lines in groupby(page.splitlines(), key=_is_of_table)]
    return Group(*(_columns(lines) if is_table else Text("\n".join(lines)) for is_table, lines in parts))


def _is_of_table(line: str) -> bool:
    return line.startswith("| ")


def _columns(lines: Sequence[str]) -> Columns:
    head, _, *rows = (line[2:-2].split(" | ") for line in lines)
    columns = Columns(*head)
    for row in rows:
        columns.add(*row)
    return columns
