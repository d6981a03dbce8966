"""What every page is made with: its template in the frame that all share, and the policy that goes with it.

Words of strangers are escaped by the templates, have nothing in them that is not seen, and come near no script.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any

from fastapi import Response
from jinja2 import Environment
from starlette.types import Scope

from farm.pages.templates import environment
from farm.web.access import Caller
from farm.web.guard import CALLER
from farm.web.pages import static

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self'; "
    "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""What a page may load and ask: this site alone, and nothing that is written into it."""


def page(
    scope: Scope, template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any
) -> Response:
    """A page of the template, which `values` and these are known to: `visitor` (a `Caller`, or None for somebody
    unknown), their `csrf` token, `path`, and `static`, which gives a file's address."""
    caller: Caller | None = scope.get(CALLER)
    text = (
        _environment()
        .get_template(template)
        .render(
            visitor=caller,
            csrf=caller.session.csrf if caller and caller.session else None,
            path=scope["path"],
            now=round(1000 * time.time()),
            **values,
        )
    )
    return Response(text, status, {"Content-Security-Policy": POLICY, **(headers or {})}, "text/html")


@cache
def _environment() -> Environment:
    made = environment("farm.web.pages", "templates")
    made.globals["static"] = static.address
    made.filters |= {"about": _about, "count": _count, "moment": _moment, "size": _size}
    return made


def _about(seconds: float) -> str:
    """About how long: `25 s`, `4 min`, `3 h`, `2 d`. `fresh.js` has the same."""
    if seconds < 60:
        return f"{max(5, 5 * round(seconds / 5))} s"
    for unit, length in (("min", 60), ("h", 3_600)):
        if seconds < 90 * length or (unit == "h" and seconds < 172_800):
            return f"{round(seconds / length):,} {unit}"
    return f"{round(seconds / 86_400):,} d"


def _count(number: int, noun: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _size(number: int) -> str:
    """A number of bytes for people."""
    for unit, length in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= length:
            return f"{number / length:.1f} {unit}"
    return f"{number} B"


def _moment(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"
