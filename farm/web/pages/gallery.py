"""The gallery: a wall of finished pictures, the newest first, found by what they show and how they were made."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from farm.web.index.query import HINTS, MOST_CHARACTERS
from farm.web.pages import frame
from farm.web.parts import LOOKS

router = APIRouter(include_in_schema=False)


@router.get("/gallery", dependencies=[LOOKS])
async def gallery(request: Request) -> Response:
    """The page; its pictures come from the API, as far as they are seen."""
    hints = [(name, *hint.partition(",")[::2]) for name, hint in HINTS.items()]
    return frame.page(request.scope, "gallery.html", hints=hints, most=MOST_CHARACTERS)
