"""Writes the reference in docs/commands.md from the commands themselves: `python deploy/commands_page.py`.

A test compares the page with `written()`, so that no option can be added, renamed or explained anew without it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from farm.cli.main import farm

PAGE = Path(__file__).parent / "docs" / "commands.md"
_BEGIN, _END = "<!-- written by make docs -->", "<!-- end -->"
_MANY, _VERY_MANY = 5, 20
"""A command that has another one's options, and at least so many, names that one instead of listing them again."""


def written(page: str) -> str:
    """The page with the reference between its marks as the commands are now. Raises `ValueError` without the marks."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page has no {_BEGIN} … {_END}")
    root = click.Context(farm, info_name="farm")
    commands = [_sub(root, name) for name in farm.list_commands(root)]
    told: list[click.Context] = []
    sections = (text for command in commands for text in _sections(command, told))
    return f"{before}{begin}\n\n" + "\n\n".join([_overview(commands), *sections]) + f"\n\n{end}{after}"


def _overview(commands: Sequence[click.Context]) -> str:
    return "\n".join(f"- {_link(context)}: {context.command.get_short_help_str(200)}" for context in commands)


def _link(context: click.Context) -> str:
    return f"[{context.command_path}](#{context.command_path.replace(' ', '-')})"


def _sub(parent: click.Context, name: str) -> click.Context:
    assert isinstance(parent.command, click.Group)
    command = parent.command.get_command(parent, name)
    assert command
    return click.Context(command, info_name=name, parent=parent)


def _sections(context: click.Context, told: list[click.Context]) -> Iterator[str]:
    """A command's section, and one for each of its own commands; `told` are those of which there is one already."""
    yield f"## {context.command_path}"
    yield from _body(context, told)
    if not isinstance(context.command, click.Group):
        told.append(context)
        return
    for name in context.command.commands:  # as they were written: click lists them by their letters
        own = _sub(context, name)
        yield f"### {own.command_path}"
        yield from _body(own, told)
        told.append(own)


def _body(context: click.Context, told: Sequence[click.Context]) -> Iterator[str]:
    command = context.command
    yield _block([f"{context.command_path} {' '.join(command.collect_usage_pieces(context))}"])
    yield from _paragraphs(command.help or "")
    yield from _options(context, told)
    yield from _paragraphs(command.epilog or "")


def _options(context: click.Context, told: Sequence[click.Context]) -> Iterator[str]:
    options = _records(context)
    like = next((other for other in told if _has_those_of(options, _records(other))), None)
    if like:
        theirs = _records(like)
        lacking = ", ".join(f"`{record[0].split()[0]}`" for record in theirs if record not in options)
        options = [record for record in options if record not in theirs]
        yield f"The options of {_link(like)}{f' but {lacking}' if lacking else ''}{', and:' if options else '.'}"
    if options:
        yield "\n".join(f"- `{option}`: {_meaning(text)}" for option, text in options)


def _has_those_of(options: Sequence[tuple[str, str]], theirs: Sequence[tuple[str, str]]) -> bool:
    """Whether a command has another one's many options, or all of them but one where they are very many."""
    lacking = set(theirs) - set(options)
    return len(theirs) >= _MANY and len(lacking) <= (len(theirs) >= _VERY_MANY)


def _records(context: click.Context) -> list[tuple[str, str]]:
    """Each option as it is written, and what its help says."""
    options = [parameter for parameter in context.command.params if isinstance(parameter, click.Option)]
    found = (option.get_help_record(context) for option in options)
    return [(record[0].removesuffix(" RANGE"), record[1]) for record in found if record]


def _meaning(text: str) -> str:
    """An option's help, and what it is left alone: `Jobs on a page. (default: 50; 1 to 10000)`."""
    said, *extras = re.split(r"\s{2,}\[|\]\s{2,}\[|\]$", text)
    told = "; ".join(_extra(extra) for part in extras if part for extra in part.split("; "))
    return _prose(said) + (f" ({_plain(told)})" if told else "")


def _extra(text: str) -> str:
    if between := re.fullmatch(r"(\d+)<=x<=(\d+)", text):
        return f"{between[1]} to {between[2]}"
    if least := re.fullmatch(r"x>=(\d+)", text):
        return f"{least[1]} or more"
    return text if text == "required" or text.startswith("default: ") else f"default: {text}"


def _paragraphs(text: str) -> Iterator[str]:
    r"""Click's paragraphs as Markdown's: those that begin with \b keep their lines, unless it is a title alone."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text).strip()):
        if not paragraph:
            continue
        kept, lines = paragraph.startswith("\b"), paragraph.removeprefix("\b").strip("\n").splitlines()
        if not kept:
            yield _prose(" ".join(line.strip() for line in lines))
            continue
        if not lines[0].startswith(" "):
            prose = [line for line in lines if not line.startswith(" ")]
            yield _prose(" ".join(prose))
            lines = lines[len(prose) :]
        if lines:
            yield _block(inspect.cleandoc("\n".join(["", *lines])).splitlines())


def _block(lines: Sequence[str]) -> str:
    return "\n".join(["```text", *lines, "```"])


def _prose(text: str) -> str:
    """Help as Markdown: commands and options in code, and nothing read as a tag."""
    text = re.sub(r"'(farm [^']+)'", r"`\1`", text)
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _plain(part) for part in parts)


def _plain(text: str) -> str:
    text = re.sub(r"(?<![\w-])(--[a-z][a-z-]*)", r"`\1`", text)
    return re.sub(r"([\[\]*_])", r"\\\1", text).replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
