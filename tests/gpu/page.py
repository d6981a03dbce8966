"""The record as a page for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def page(found: Mapping[str, Any]) -> str:
    """All parts of a record, in Markdown."""
    machine = found["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    head = f"{machine['device']}, Python {machine['python']}, {packages}; {machine['date']}, {found['seconds']:.0f} s."
    return "\n\n".join([head, *(_part(name, facts) for name, facts in found["parts"].items())]) + "\n"


def _part(name: str, facts: list[Mapping[str, Any]]) -> str:
    lines = [f"**{name}**", "", "| | holds | figures |", "| --- | --- | --- |"]
    lines += [f"| {_cell(fact['name'])} | {_HOLDS[fact['ok']]} | {_cell(figures_of(fact))} |" for fact in facts]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


_HOLDS = {True: "yes", False: "**no**", None: ""}


def figures_of(fact: Mapping[str, Any]) -> str:
    """A fact's figures and note, on one line."""
    figures = [f"{name.replace('_', ' ')} {_shown(value)}" for name, value in fact["figures"].items()]
    return "; ".join([*figures, *([fact["note"]] if fact["note"] else [])])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_shown(part)}" for name, part in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
