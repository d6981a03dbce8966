"""The site put together: its parts, its pages and APIs, how errors are told, and the guard around all of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from farm.client import FarmClient
from farm.errors import FarmError, InvalidInput
from farm.jobs.faults import said
from farm.web.a1111 import api as a1111
from farm.web.access import Access
from farm.web.dialects import Dialects
from farm.web.forms import Forms
from farm.web.guard import Guard
from farm.web.limits import Limits, Usage
from farm.web.names import Names
from farm.web.openai import api as openai
from farm.web.pages import routes
from farm.web.pages.errors import tell
from farm.web.parts import Parts
from farm.web.problems import Problem, Refused, of_status
from farm.web.v1 import api

_TOLD_NOBODY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
_OF_A_REQUEST = ("body", "query", "path", "header")


@dataclass(frozen=True)
class Site:
    """The site as ASGI serves it, and what it is made of."""

    app: Guard
    parts: Parts


def create(
    client: FarmClient,
    access: Access,
    *,
    names: Names | None = None,
    limits: Limits | None = None,
    home: Path | None = None,
    reindex: bool = False,
    forms: Forms | None = None,
) -> Site:
    """A site of one farm, which keeps an index of its pictures in `home`, made anew if it is to `reindex`.

    Its page to submit jobs has these `forms`. Nothing is connected to before the site runs.
    """
    usage = Usage(limits or Limits())
    parts = Parts.of(client, access, usage, home=home, reindex=reindex, forms=forms)
    app = _bare(parts)
    for one in (a1111, openai):
        one.install(app)
    apis = (api, a1111, openai)
    dialects = Dialects(a1111.DIALECTS | openai.DIALECTS, otherwise=tell)
    _tell_errors(app, dialects)
    guard = Guard(
        app,
        names=names or Names(),
        access=access,
        usage=usage,
        public=routes.PUBLIC.union(*(one.PUBLIC for one in apis)),
        large=routes.LARGE.union(*(one.LARGE for one in apis)),
        streamed=api.STREAMED,
        shown=openai.SHOWN,
        dialects=dialects,
    )
    return Site(guard, parts)


def _bare(parts: Parts) -> FastAPI:
    """An application that tells no errors yet, with which its parts start and stop."""

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        async with parts.running():
            yield

    app = FastAPI(
        lifespan=running,
        routes=_routes(),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=_TOLD_NOBODY,
    )
    app.state.parts = parts
    return app


@cache
def _routes() -> list[BaseRoute]:
    """Those of the pages and the APIs, which every site shares: to find out what each of them takes is long work."""
    made = APIRouter()
    for router in (*routes.ROUTERS, api.router(), *a1111.routers(), openai.router()):
        made.include_router(router)
    return made.routes


def _tell_errors(app: FastAPI, dialects: Dialects) -> None:
    def told(
        request: Request, what: Problem | Refused | FarmError, headers: Mapping[str, str] | None = None
    ) -> Response:
        return dialects.response(request.scope, what, headers)

    @app.exception_handler(FarmError)
    async def of_the_farm(request: Request, error: FarmError) -> Response:
        return told(request, error)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return told(request, error)

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"][first["loc"][0] in _OF_A_REQUEST :]]
        if first["type"] == "json_invalid":
            return told(request, InvalidInput("the body is not JSON"))
        return told(request, InvalidInput(said(first), field=".".join(where) or None))

    @app.exception_handler(Exception)
    async def of_ours(request: Request, _: Exception) -> Response:
        return told(request, of_status(500, "a fault of the farm's; its log has more"))

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        detail = {404: "there is nothing here", 405: f"{request.method} is not known here"}
        problem = of_status(error.status_code, detail.get(error.status_code, str(error.detail)))
        return told(request, problem, error.headers)
