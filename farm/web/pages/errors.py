"""Errors as a person in front of a browser sees them: the words of the command, in a page; a program gets a problem."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Response
from starlette.datastructures import Headers
from starlette.types import Scope

from farm.web.pages import frame
from farm.web.pages.login import door
from farm.web.problems import Problem

_INSIDE = "iframe"


def tell(scope: Scope, problem: Problem, headers: Mapping[str, str]) -> Response:
    """The answer to a request that ended in a problem."""
    if not _shows_pages(scope):
        return problem.response(headers)
    if Headers(scope=scope).get("sec-fetch-dest") == _INSIDE:  # within a page of ours, which has the frame
        framed = {"Content-Security-Policy": "default-src 'none'; frame-ancestors 'self'; sandbox"}
        return frame.page(
            scope,
            "inside.html",
            status=problem.status,
            headers={**headers, **framed, "X-Frame-Options": "SAMEORIGIN"},
            problem=problem,
        )
    if problem.status == 401 or scope["path"] == "/login":
        return door(scope, problem, _asked(scope), status=problem.status, headers=headers)
    return frame.page(scope, "error.html", status=problem.status, headers=headers, problem=problem)


def _shows_pages(scope: Scope) -> bool:
    """Whether a browser asks for a page, and not a script or a program for data."""
    return not scope["path"].startswith("/api/") and "text/html" in Headers(scope=scope).get("accept", "")


def _asked(scope: Scope) -> str:
    """What was asked for, to go on there after coming in."""
    query = scope.get("query_string", b"").decode("latin-1")
    path: str = scope["path"] if scope["path"].isprintable() else "/"
    if path == "/login":
        return "/"
    return f"{path}?{query}" if query and query.isprintable() else path
