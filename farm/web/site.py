"""The pages of the site: so far its door, by which a browser comes in with the code that the terminal showed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from farm.web.guard import CALLER
from farm.web.parts import InSite
from farm.web.problems import Refused

router = APIRouter(include_in_schema=False)

PUBLIC = frozenset({"/", "/login"})

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""What a page may load and ask: this site alone, and nothing that is written into it."""

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Render farm</title>
<h1>The render farm for Stable Diffusion</h1>
<p>{said}</p>
<p>Its API is described in <a href="/api/v1/openapi.json">/api/v1/openapi.json</a>.</p>
</html>
"""


@router.get("/")
async def home(request: Request) -> Response:
    """Says whether one is signed in."""
    caller = request.scope.get(CALLER)
    said = f"You are signed in, with the role {caller.role}." if caller else "Open the address that 'farm web' told."
    return Response(_PAGE.format(said=said), headers={"Content-Security-Policy": POLICY}, media_type="text/html")


@router.get("/login")
async def login(request: Request, site: InSite, code: Annotated[str, Query(max_length=200)] = "") -> Response:
    """Takes the one-time code, and gives a session's cookie for it."""
    cookie = site.access.sessions.enter(code)
    if cookie is None:
        site.usage.refusal(request.client.host if request.client else "-")
        raise Refused(
            403, "code-not-valid", "this code is of no use (any more)", hint="start 'farm web' again for another"
        )
    secure = request.url.scheme == "https"
    return Response(status_code=303, headers={"Location": "/", "Set-Cookie": site.access.cookie(cookie, secure=secure)})
