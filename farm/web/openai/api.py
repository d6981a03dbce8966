"""The API as a whole: its routers, its form of errors, and its OpenAPI document."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI

from farm.web.dialects import Dialect
from farm.web.document import document, schemas_of
from farm.web.openai import images, links, models
from farm.web.openai.asked import NAMES, Edit, Generation
from farm.web.openai.errors import form
from farm.web.openai.links import Links

PREFIX = "/v1"
DOCUMENT = f"{PREFIX}/openapi.json"
SHOWN = frozenset({f"{PREFIX}{links.PATH}"})
"""Paths of pictures that others' pages may show: whoever has the link may see it."""
PUBLIC = SHOWN | {DOCUMENT}
LARGE = frozenset({f"{PREFIX}/images/edits"})
"""Paths whose requests may bring pictures."""
DIALECTS = {f"{PREFIX}/": Dialect(form, NAMES)}

_DESCRIPTION = """What programs for OpenAI's images ask of it, asked of a render farm. `/api/v1` can more."""


def install(app: FastAPI) -> None:
    """Give the site what the API remembers."""
    app.state.openai = Links()


def router() -> APIRouter:
    """Everything under `/v1`."""
    made = APIRouter(prefix=PREFIX, tags=["OpenAI"])
    made.include_router(images.router, prefix="/images")
    made.include_router(links.router)
    made.include_router(models.router)

    @made.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        schemas = schemas_of(Generation, Edit)
        picture = {"type": "string", "contentMediaType": "application/octet-stream"}
        schemas["Edit"]["properties"] |= {"image": picture, "mask": picture}
        schemas["Edit"]["required"] = [*schemas["Edit"].get("required", ()), "image"]
        return document("OpenAI's images of a render farm", _DESCRIPTION, made.routes, schemas)

    return made
