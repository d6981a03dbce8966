"""What commands print: JSON for programs, aligned lines for people, and never control codes into a pipe."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

JSON_WANTED = "farm.json"
_PIPE_WIDTH = 200
# Control characters of Latin-1, marks that turn the direction of a line, and halves of characters.
_ACTED_ON = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """Give a command `--json`, as the parameter `as_json`; errors are then printed as JSON too."""

    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
        ctx.meta[JSON_WANTED] = value
        return value

    return click.option(
        "--json", "as_json", is_flag=True, is_eager=True, callback=remember, help="Print JSON for programs."
    )(command)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(inert(json.dumps(value, indent=2, ensure_ascii=False)))


def inert(document: str) -> str:
    """JSON with what a terminal acts on escaped; JSON itself escapes only a part of that."""
    return _ACTED_ON.sub(lambda sign: f"\\u{ord(sign[0]):04x}", document)


def note(text: str) -> None:
    """Lines for people, on stderr, so that stdout stays what was asked for."""
    say(text, err=True)


def note_unreadable(number: int) -> None:
    """Tell of so many jobs that were asked for, and whose record is gone or damaged."""
    if number:
        note(f"{plural(number, 'job')} not shown, whose record is gone or damaged ('farm recover' makes it anew)")


def say(text: str, *, err: bool = False) -> None:
    """Lines that may hold the words of a stranger, with nothing in them that a terminal would act on."""
    click.echo("\n".join(map(one_line, text.split("\n"))), err=err)


def console() -> Console:
    """The terminal, or a wide plain page when stdout is a pipe or a file."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def table(*columns: str, right: tuple[str, ...] = (), elastic: str | None = None) -> Table:
    """A table without lines. The `elastic` column gives way when the terminal is narrow; the others never wrap."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in columns:
        made.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if name == elastic else None,
            min_width=None if name == elastic else len(name),
        )
    return made


def one_line(text: str) -> str:
    """Text of a stranger on one line, with nothing in it that a terminal would act on."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def cell(text: str) -> str:
    """`one_line` for a table, where brackets would be taken for styles."""
    from rich.markup import escape

    return escape(one_line(text))


def age(since: datetime) -> str:
    """How long ago, in the largest whole unit: `12 s`, `5 min`, `3 h`, `2 d`."""
    seconds = max(0, int((datetime.now(UTC) - since).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def size(number: int) -> str:
    """A number of bytes for people."""
    for unit, length in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= length:
            return f"{number / length:.1f} {unit}"
    return f"{number} B"


def plural(number: int, noun: str) -> str:
    """`1 job`, `2 jobs`, `2 batches`."""
    ending = "es" if noun.endswith("ch") else "s"
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{ending}"
