"""The API as a whole: its routers, and its OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.dependencies.models import Dependant

from farm.errors import InvalidInput
from farm.web.document import document
from farm.web.v1 import adding, events, farm, gallery, jobs, results, session
from farm.web.v1.shapes import schemas

PREFIX = "/api/v1"
DOCUMENT = f"{PREFIX}/openapi.json"
PUBLIC = frozenset({DOCUMENT})
LARGE = frozenset({f"{PREFIX}/jobs"})
"""Paths whose requests may bring pictures."""
STREAMED = frozenset({f"{PREFIX}/models/", f"{PREFIX}/loras/"})
"""Below these, files of any size are put."""

_DESCRIPTION = """Submit, follow and fetch pictures of a render farm for Stable Diffusion, as the command `farm` does.

Programs send a token (`farm token add`) as bearer, or as the password of basic authentication. Errors are RFC 9457
problems, whose `type` is stable and whose `detail` and `hint` are the words of the command, with fields in the place of
its options.
"""


def router() -> APIRouter:
    """Everything under `/api/v1`."""
    made = APIRouter(prefix=PREFIX, dependencies=[Depends(_only_known_parameters)])
    for part in (jobs, events, results, gallery, farm, adding, session):
        made.include_router(part.router)

    @made.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        return described(made)

    return made


async def _only_known_parameters(request: Request) -> None:  # no thread for it
    """Raise `InvalidInput` for one that nobody reads: it may be one that is misspelt, and would change what is done."""
    known = {*_parameters(request.scope["route"].dependant)}
    if unknown := [name for name in request.query_params if name not in known]:
        which = f"known here: {', '.join(sorted(known))}" if known else "there are none here"
        raise InvalidInput("is no parameter of this", field=unknown[0][:100], hint=which)


def _parameters(dependant: Dependant) -> Iterator[str]:
    """Those of the query that a route reads, by what it depends on too."""
    yield from (param.alias for param in dependant.query_params)
    for other in dependant.dependencies:
        yield from _parameters(other)


def described(made: APIRouter) -> dict[str, Any]:
    """The API's OpenAPI document."""
    return document("The render farm for Stable Diffusion", _DESCRIPTION, made.routes, schemas())
