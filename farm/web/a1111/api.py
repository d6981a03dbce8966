"""The API as a whole: its routers, its form of errors, and its OpenAPI document."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI

from farm.web.a1111 import catalogue, images, pnginfo, progress
from farm.web.a1111.asked import NAMES, ImageToImage, TextToImage
from farm.web.a1111.errors import form
from farm.web.a1111.options import Settings
from farm.web.a1111.pnginfo import PngInfo
from farm.web.a1111.progress import AboutTask
from farm.web.a1111.tasks import Tasks
from farm.web.dialects import Dialect
from farm.web.document import document, schemas_of

PREFIX = "/sdapi/v1"
INTERNAL = "/internal"
DOCUMENT = f"{PREFIX}/openapi.json"
PING = f"{INTERNAL}/ping"
PUBLIC = frozenset({DOCUMENT, PING})
LARGE = frozenset(f"{PREFIX}/{name}" for name in ("txt2img", "img2img", "png-info"))
"""Paths whose requests may bring pictures; `txt2img` those of extensions, which are refused by what they are."""
DIALECTS = dict.fromkeys((f"{PREFIX}/", f"{INTERNAL}/"), Dialect(form, NAMES))

_DESCRIPTION = """What programs for A1111's web UI ask of it, asked of a render farm. `/api/v1` can more."""


def install(app: FastAPI) -> None:
    """Give the site what the API remembers."""
    app.state.a1111 = Tasks()


def routers() -> tuple[APIRouter, APIRouter]:
    """Everything under `/sdapi/v1`, and what A1111's own page asks."""
    made, internal = APIRouter(prefix=PREFIX, tags=["A1111"]), APIRouter(prefix=INTERNAL, tags=["A1111"])
    for part in (images, progress, catalogue, pnginfo):
        made.include_router(part.router)
    internal.include_router(progress.internal)

    @internal.get("/ping", openapi_extra={"security": []})
    async def ping() -> dict[str, Any]:
        """Whether the site is there; for anybody."""
        return {}

    @made.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        schemas = schemas_of(TextToImage, ImageToImage, Settings, PngInfo, AboutTask)
        return document("A1111's API of a render farm", _DESCRIPTION, [*made.routes, *internal.routes], schemas)

    return made, internal
