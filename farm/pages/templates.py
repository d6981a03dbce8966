"""How templates of pages are read: words of strangers are escaped, have nothing in them that is not seen, and what is
missing is told."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from farm.words import one_line


def environment(package: str, folder: str) -> Environment:
    """The templates in a folder of a package."""
    made = Environment(
        loader=PackageLoader(package, folder),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    made.filters["seconds"] = _seconds
    return made


def _harmless(value: Any) -> Any:
    """What our own packages wrote stays as it is."""
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _seconds(value: float) -> str:
    """How long something took: `0.31 s`, `12.4 s`, `3 min 20 s`, `2 h 5 min`."""
    if value < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {seconds} s"
