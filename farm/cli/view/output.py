"""What commands print: JSON for programs, aligned lines for people, and never control codes into a pipe."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from farm.errors import InvalidInput
from farm.words import inert, one_line

if TYPE_CHECKING:
    from rich.console import Console

JSON_WANTED = "farm.json"
_PIPE_WIDTH = 200

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """Give a command `--json`, as the parameter `as_json`; errors are then printed as JSON too."""

    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
        ctx.meta[JSON_WANTED] = value
        return value

    return click.option(
        "--json", "as_json", is_flag=True, is_eager=True, callback=remember, help="Print JSON for programs."
    )(command)


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """One JSON document on stdout; on one line if `indent` is None. All ASCII unless stdout is UTF-8, as JSON is."""
    separators = (",", ":") if indent is None else None
    in_utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    click.echo(
        inert(json.dumps(value, indent=indent, separators=separators, ensure_ascii=not in_utf8)), file=sys.stdout
    )


def note(*lines: str) -> None:
    """Lines for people, on stderr, so that stdout stays what was asked for."""
    say(*lines, err=True)


def note_unreadable(number: int) -> None:
    """Say how many of the jobs asked for have a record that is gone or damaged."""
    if number:
        note(f"{plural(number, 'job')} not shown: the record is gone or damaged ('farm recover' rebuilds it)")


def say(*lines: str, err: bool = False) -> None:
    """Lines that may hold the words of a stranger: none of them makes a line of its own, or steers the terminal."""
    click.echo("\n".join(map(one_line, lines)), file=sys.stderr if err else sys.stdout)  # as it is encoded


def confirmed(question: str) -> bool:
    """Whether the person at the terminal says yes. Raises `InvalidInput` where there is none."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        note("")
        raise InvalidInput("there is nobody to ask", hint="add --yes if you mean it") from None


def console() -> Console:
    """The terminal, or a plain page when stdout is a pipe or a file: of `COLUMNS`, if that is set, else a wide one."""
    from rich.console import Console

    is_told = os.environ.get("COLUMNS", "").isdecimal()
    return Console(highlight=False, width=None if sys.stdout.isatty() or is_told else _PIPE_WIDTH)


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
