"""Who asks, and sessions of browsers, which begin with a token or with the one-time code of the terminal."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from farm.web.parts import InSite, Looking
from farm.web.problems import Refused
from farm.web.v1.shapes import WhoIAm, problems

router = APIRouter(tags=["Session"])


@router.get("/session", responses=problems())
async def who_am_i(caller: Looking) -> WhoIAm:
    """Who asks, and what they may do."""
    return WhoIAm(name=caller.name, role=caller.role, csrf=caller.session.csrf if caller.session else None)


@router.post("/session", status_code=201, responses=problems(409))
async def begin(request: Request, response: Response, site: InSite, caller: Looking) -> WhoIAm:
    """Begin a session with a token: the answer has a cookie that lasts twelve hours, and as long as the token does."""
    if caller.token is None or caller.session is not None:
        raise Refused(409, "no-token", "a session begins with a token", hint="send 'Authorization: Bearer TOKEN'")
    cookie = site.access.sessions.begin(caller.name, caller.role, token=caller.token)
    session = site.access.sessions.of(cookie)
    response.headers["Set-Cookie"] = site.access.cookie(cookie, secure=request.url.scheme == "https")
    return WhoIAm(name=caller.name, role=caller.role, csrf=session.csrf if session else None)


@router.delete("/session", status_code=204, responses=problems(409))
async def end(request: Request, site: InSite, caller: Looking) -> Response:
    """End the session that asks."""
    if caller.session is None:
        raise Refused(409, "no-session", "there is no session to end")
    site.access.sessions.end(caller.session)
    cookie = site.access.cookie("", secure=request.url.scheme == "https")
    return Response(status_code=204, headers={"Set-Cookie": cookie})
