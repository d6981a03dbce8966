"""Files are UTF-8 whatever the locale says: no text is opened, and no program's output read, without saying so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((*ROOT.glob("farm/**/*.py"), *ROOT.glob("worker/**/*.py")))
NOT_OF_TEXT = {"Image", "tarfile", "av", "os"}
"""Whose `open` opens no text file."""


def unsaid(source: str) -> Iterator[int]:
    """The lines on which text is opened in whatever encoding the locale has."""
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call) or any(keyword.arg == "encoding" for keyword in call.keywords):
            continue
        function = call.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        is_method = isinstance(function, ast.Attribute)
        owner = getattr(function.value, "id", "") if isinstance(function, ast.Attribute) else None
        given = {
            keyword.arg: keyword.value.value for keyword in call.keywords if isinstance(keyword.value, ast.Constant)
        }
        modes = [argument.value for argument in call.args if isinstance(argument, ast.Constant)] + [given.get("mode")]
        binary = any(isinstance(mode, str) and "b" in mode and len(mode) <= 3 for mode in modes)
        opens = name in ("open", "fdopen") and (owner not in NOT_OF_TEXT or name == "fdopen") and not binary
        if (
            opens
            or (is_method and name in ("read_text", "write_text"))
            or given.get("text") is True
            or given.get("universal_newlines") is True
        ):
            yield call.lineno


@pytest.mark.long
def test_text_is_opened_with_its_encoding() -> None:
    found = {str(path.relative_to(ROOT)): list(unsaid(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        *("path.read_text()", "path.write_text('x')", "open('x')", "path.open()", "path.open('a')", "open('x', 'w')"),
        *("os.fdopen(3, 'w')", "subprocess.run(['ls'], text=True)", "Path('x').open(mode='w')"),
    ],
)
def test_what_does_not_say_it_is_found(source: str) -> None:
    assert list(unsaid(source)) == [1]


@pytest.mark.parametrize(
    "source",
    [
        *("path.read_text(encoding='utf-8')", "path.open('rb')", "path.open('r+b')", "os.open('x', 0)"),
        *(
            "Image.open('x')",
            "read_text(data, 'key')",
            "subprocess.run(['ls'])",
            "Prompt(text='x')",
            "open('x', encoding='utf-8')",
        ),
    ],
)
def test_and_what_does_is_not(source: str) -> None:
    assert list(unsaid(source)) == []
