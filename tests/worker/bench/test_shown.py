"""What a terminal shows of the report: whole numbers at every width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from worker.bench.report import table
from worker.bench.shown import shown

HEAD = ("arm", "engine is faster by", "images/s", "rows/s", "peak, MiB", "to the job alone")
ROWS = [("engine", "1", "3.152 (3.001 to 3.300)", "64.0", "", ""), ("one by one", "3.15×", "1.001", "20.3", "812", "x")]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_table_fits_and_nothing_of_it_is_cut(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        console.print(shown(f"**Backlog**: 16 jobs.\n\n{table(HEAD, ROWS)}\n\nbye"))
    said = capture.get()
    assert max(map(len, said.splitlines())) <= width
    assert said.startswith("**Backlog**: 16 jobs.") and said.rstrip().endswith("bye")
    assert all(cell in said for row in ROWS for cell in row)
    assert all(name in said for name in HEAD[1:])
    assert "|" not in said
