"""What the commands for models and for LoRAs that the farm keeps have in common."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from farm.cli.view.output import size
from farm.errors import InvalidInput

if TYPE_CHECKING:
    from farm.client.keeping import Progress


def name_and_source(text: str, form: str, *, example: str) -> tuple[str, str]:
    """The two sides of `NAME=SOURCE`. Raises `InvalidInput`."""
    name, equals, source = text.partition("=")
    if not equals or not source:
        raise InvalidInput(f"{text!r:.80} is not {form}", hint=f"such as {example}")
    return name, source


def what_was_sent(sent: int) -> str:
    """How many bytes of something were sent to the bucket."""
    return f"of which {size(sent)} were sent" if sent else "all of which was there"


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar of the bytes that are read and sent; nothing unless stderr is a terminal."""
    from farm.client.keeping import Unwatched

    if not sys.stderr.isatty():
        yield Unwatched()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(24),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Shown(bars)


class _Shown:
    """A bar of what is being done now."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._task: Any = None

    def begin(self, what: str, total: int) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(what, total=total)

    def advance(self, number: int) -> None:
        self._bars.advance(self._task, number)
