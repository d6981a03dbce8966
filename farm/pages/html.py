"""What every page is made with: templates, style and scripts, each page one file that asks nobody for anything.

Its words may be anybody's: the templates escape all of them, nothing of them comes near a script, and each page's own
policy lets nothing run or load but what this package wrote.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import Any, get_args

from jinja2 import Environment
from markupsafe import Markup

from farm.pages import plot
from farm.pages.record import Part, Remark
from farm.pages.templates import environment

_WEB = resources.files("farm.pages").joinpath("web")
_STYLE = "page.css"
_MOVING = "moving.js"
"""What the script of every page with a scrubber begins with."""


def rendered(name: str, *, style: str = _STYLE, scripts: Sequence[str] | None = None, **values: Any) -> str:
    """The page of the template `NAME.html`, with its style and scripts: those of pages that move, and `NAME.js`."""
    script = "\n".join(map(_asset, (_MOVING, f"{name}.js") if scripts is None else scripts))
    style = _asset(style)
    return (
        _environment()
        .get_template(f"{name}.html")
        .render(
            policy=_policy(script, style),
            script=Markup(script),  # noqa: S704 - this package's own
            style=Markup(style),  # noqa: S704
            at=plot,
            **values,
        )
    )


def drawing(plot_: plot.Plot) -> str:
    """A plot as an SVG file that needs nothing else."""
    return _environment().get_template("drawing.svg").render(plot=plot_, at=plot)


def by_part(remarks: Iterable[Remark]) -> dict[str, list[str]]:
    """What there is to say of each part, each thing once."""
    found: dict[str, dict[str, None]] = {part: {} for part in get_args(Part)}
    for remark in remarks:
        found[remark.part][remark.text] = None
    return {part: list(texts) for part, texts in found.items()}


def spread(number: int, most: int) -> set[int]:
    """Which of so many are shown where there is room for `most`: evenly, the first and the last among them."""
    if number <= most:
        return set(range(number))
    return {round(index * (number - 1) / (most - 1)) for index in range(most)}


@cache
def _environment() -> Environment:
    made = environment("farm.pages", "web")
    made.filters |= {"data": _data, "figure": _written}
    return made


def _asset(name: str) -> str:
    return _WEB.joinpath(name).read_text(encoding="utf-8")


def _policy(script: str, style: str) -> str:
    """The page's Content-Security-Policy: what is embedded as data, and this very script and style."""
    return (
        "default-src 'none'; img-src data:; media-src data:; "
        f"script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _data(content: bytes, kind: str) -> Markup:
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")  # noqa: S704 - the kind is the template's


def _written(value: float | None) -> str:
    return "–" if value is None else "no number" if math.isnan(value) else f"{value:.4g}"
