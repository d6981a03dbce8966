"""The door: a browser comes in with the code that the terminal showed, or with a token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response
from starlette.types import Scope

from farm.web.pages import frame
from farm.web.parts import InSite, Parts
from farm.web.problems import Problem, Refused

router = APIRouter(include_in_schema=False)

PUBLIC = frozenset({"/login"})


def door(
    scope: Scope, problem: Problem | None, onward: str, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """The page that asks for a code or a token. Its form says whose page it is, which it would not without a referrer;
    this site alone is told."""
    own = {**(headers or {}), "Referrer-Policy": "same-origin"}
    return frame.page(scope, "login.html", status=status, headers=own, problem=problem, onward=onward)


@router.get("/login")
async def login(request: Request, site: InSite, code: Annotated[str | None, Query(max_length=200)] = None) -> Response:
    """Takes the one-time code, and gives a session's cookie for it; without one, asks for it."""
    if code is None:
        return door(request.scope, None, "/")
    return _let_in(request, site, site.access.sessions.enter(code), onward="/")


@router.post("/login")
async def come_in(
    request: Request,
    site: InSite,
    word: Annotated[str, Form(max_length=400)] = "",
    onward: Annotated[str, Form(max_length=2_000)] = "/",
) -> Response:
    """Takes the code or a token from the form, and goes on to the page that was asked for."""
    word = word.strip()
    cookie = site.access.sessions.enter(word)
    if cookie is None and (token := site.access.tokens.owner(word)):
        cookie = site.access.sessions.begin(token.name, token.role, token=token.sha256)
    return _let_in(request, site, cookie, onward=onward if _is_ours(onward) else "/")


def _let_in(request: Request, site: Parts, cookie: str | None, *, onward: str) -> Response:
    if cookie is None:
        site.usage.refusal(request.client.host if request.client else "-")
        raise Refused(
            403,
            "code-not-valid",
            "this is neither a token of this site's nor a code that is of any use (any more)",
            hint="'farm web --address' tells another code of a farm that 'farm up' runs; "
            "'farm token add NAME --role submit' makes a token",
        )
    secure = request.url.scheme == "https"
    headers = {"Location": onward, "Set-Cookie": site.access.cookie(cookie, secure=secure)}
    return Response(status_code=303, headers=headers)


def _is_ours(address: str) -> bool:
    """Whether it is a path of this site, and not an address of another."""
    return address.startswith("/") and address[1:2] not in ("/", "\\") and address.isascii() and address.isprintable()
