"""Tables without lines that fit any width: what reads well in part gives way first, and nothing else is ever cut."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, ConsoleRenderable, Group, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from farm.words import one_line

Cell = str | ConsoleRenderable

_GAP = 2
_UNBOUNDED = 1_000_000
_LEAST_CUT, _LEAST_WRAPPED = 10, 16


class Columns:
    """Rows of cells under names. A cell that is a `str` may hold the words of a stranger.

    Where there is no room, the `elastic` column gives way as far as it can be read: it is cut, or `wrapped` onto more
    lines. Then the columns of `dropped` are left out, the first of them first. The others are shown whole, one
    below the other if need be: ids are typed, and half a number is another number.
    """

    def __init__(
        self,
        *names: str,
        right: Sequence[str] = (),
        elastic: str | None = None,
        wrapped: bool = False,
        dropped: Sequence[str] = (),
        header: bool = True,
    ) -> None:
        self._names = names
        self._right = right
        self._elastic = elastic
        self._wrapped = wrapped
        self._dropped = dropped
        self._header = header
        self._rows: list[list[ConsoleRenderable]] = []

    def add(self, *cells: Cell) -> None:
        """A row, with a cell for each name."""
        self._rows.append([Text(one_line(cell)) if isinstance(cell, str) else cell for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = self._widths(console, options)
        kept = self._kept(widths, options.max_width)
        side_by_side = self._least(widths, kept) <= options.max_width
        drawn = self._table(widths, kept, options.max_width) if side_by_side else self._list(kept)
        for line in console.render_lines(drawn, options, pad=False):
            yield from _without_blanks_at_its_end(line)
            yield Segment.line()

    def _table(self, widths: dict[str, int], kept: Sequence[str], width: int) -> Table:
        made = Table(box=None, pad_edge=False, header_style="dim", padding=(0, _GAP, 0, 0), show_header=self._header)
        for name in kept:
            cut = name == self._elastic and not self._wrapped
            made.add_column(
                name,
                justify="right" if name in self._right else "left",
                width=self._room(widths, kept, width) if name == self._elastic else widths[name],
                no_wrap=cut,
                overflow="ellipsis" if cut else "fold",
            )
        for row in self._rows:
            made.add_row(*(row[self._names.index(name)] for name in kept))
        return made

    def _list(self, kept: Sequence[str]) -> Group:
        """A line for each cell, folded where the terminal ends."""
        first, *others = kept
        lines: list[ConsoleRenderable] = []
        for row in self._rows:
            lines.append(row[self._names.index(first)])
            for name in others:
                cell = row[self._names.index(name)]
                if isinstance(cell, Text) and not cell.plain:
                    continue
                said = Text(f"{name}: ", style="dim") if self._header else Text()
                lines.append(Padding(said + cell if isinstance(cell, Text) else cell, (0, 0, 0, _GAP)))
        return Group(*lines)

    def _widths(self, console: Console, options: ConsoleOptions) -> dict[str, int]:
        """How wide the cells of each name are when shown whole."""
        unbounded = options.update(width=_UNBOUNDED)
        widths = {name: len(name) if self._header else 0 for name in self._names}
        for row in self._rows:
            for name, cell in zip(self._names, row, strict=True):
                widths[name] = max(widths[name], Measurement.get(console, unbounded, cell).maximum)
        return widths

    def _kept(self, widths: dict[str, int], width: int) -> list[str]:
        kept, leaving = list(self._names), list(self._dropped)
        while leaving and self._least(widths, kept) > width:
            kept.remove(leaving.pop(0))
        return kept

    def _least(self, widths: dict[str, int], kept: Sequence[str]) -> int:
        """The smallest width in which these can be read."""
        least = _LEAST_WRAPPED if self._wrapped else _LEAST_CUT
        each = (min(widths[name], least) if name == self._elastic else widths[name] for name in kept)
        return sum(each) + _GAP * (len(kept) - 1)

    def _room(self, widths: dict[str, int], kept: Sequence[str], width: int) -> int:
        """How wide the elastic column, if it is kept, can be."""
        others = sum(widths[name] + _GAP for name in kept if name != self._elastic)
        return min(widths.get(self._elastic or "", 0), width - others)


def _without_blanks_at_its_end(line: Sequence[Segment]) -> Sequence[Segment]:
    """Tables pad every cell; whoever reads a pipe wants none of that."""
    kept = list(line)
    while kept and not kept[-1].text.strip():
        kept.pop()
    if kept:
        text, style, control = kept[-1]
        kept[-1] = Segment(text.rstrip(), style, control)
    return kept
