"""The gallery: finished pictures, found by their words and settings, and small ones to list them with."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from farm.bucket.fetch import read
from farm.errors import InvalidInput
from farm.web import thumbnails
from farm.web.index import places, query
from farm.web.index.entry import Entry
from farm.web.index.feeding import Making
from farm.web.index.index import Index
from farm.web.parts import LOOKS, InSite, Parts
from farm.web.problems import Refused
from farm.web.v1.jobs import known
from farm.web.v1.made import picture_of
from farm.web.v1.results import CACHE
from farm.web.v1.shapes import problems

router = APIRouter(tags=["Gallery"])

_MOST_SKIPPED = 10_000_000
_SEARCH = (
    "Words of prompts and labels, by their beginnings or in quotes, and settings: "
    f"{'; '.join(query.HINTS.values())}. A `-` before one means: without."
)


class FinishedPicture(BaseModel):
    """A finished picture: what was asked for, and when it was finished (UTC).

    `width`, `height` and `guidance` are null where that is not known; `traced` says whether it kept a trace.
    """

    job: str
    batch: str
    finished: datetime
    mode: str
    prompts: list[str]
    negative: str
    model: str
    sampler: str
    schedule: str
    steps: int
    seed: int
    guidance: float | None
    width: int | None
    height: int | None
    losses: list[str]
    loras: list[str]
    labels: dict[str, str]
    traced: bool

    @classmethod
    def of(cls, entry: Entry) -> FinishedPicture:
        return cls(batch=entry.batch, **entry.model_dump(include=set(cls.model_fields)))


class Progress(BaseModel):
    """How far the index has been made: `done` of `of` batches in the bucket; of 0 while they are counted."""

    done: int
    of: int

    @classmethod
    def of_making(cls, making: Making | None) -> Progress | None:
        return Progress(done=making.done, of=making.of) if making else None


class Gallery(BaseModel):
    """A page of a search, the newest first, and how many pictures it finds in all."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"pictures": [], "total": 0, "here": None, "next": None}]}
    )

    pictures: list[FinishedPicture]
    total: int
    here: str | None = Field(description="The cursor of this page: with `skip`, any later one comes by it.")
    next: str | None = Field(description="The cursor of the next page; null after the last.")
    making: Progress | None = Field(default=None, description="The index is still being made: there are more.")


@router.get("/gallery", dependencies=[LOOKS], responses=problems())
async def gallery(
    site: InSite,
    q: Annotated[
        str,
        Query(
            max_length=query.MOST_CHARACTERS,
            description=_SEARCH,
            examples=["otter model:emoji"],
        ),
    ] = "",
    limit: Annotated[int, Query(ge=1, le=500, description="Pictures on a page.")] = 50,
    cursor: Annotated[str | None, Query(max_length=20, description="`next` or `here` of another page.")] = None,
    skip: Annotated[int, Query(ge=0, le=_MOST_SKIPPED, description="So many pictures are passed over first.")] = 0,
) -> Gallery:
    """Finished pictures, the newest first: those that `q` says, also long after their jobs' records have lapsed."""
    if cursor is not None and not (cursor.isascii() and cursor.isdecimal() and int(cursor) <= places.LAST + 1):
        raise InvalidInput("is none that this site gave", field="cursor", hint="begin without one")
    found = await site.searches(indexed(site).search, q, cursor=cursor, skip=skip, limit=limit)
    return Gallery(
        pictures=[FinishedPicture.of(entry) for entry in found.entries],
        total=found.total,
        here=found.here,
        next=found.next,
        making=Progress.of_making(found.making),
    )


@router.get(
    "/jobs/{job}/thumbnail",
    dependencies=[LOOKS],
    status_code=200,
    response_class=Response,
    responses={
        200: {"description": "The thumbnail.", "content": {thumbnails.MEDIA_TYPE: {"schema": {"type": "string"}}}},
        304: {"description": "It is what `If-None-Match` says."},
        **problems(404, 409),
    },
)
async def thumbnail(request: Request, site: InSite, job: str) -> Response:
    """The picture of a job that is done, at most 320 pixels a side."""
    kept = site.thumbnails
    if kept is None:
        raise Refused(404, "no-thumbnail", "this site makes no thumbnails")
    picture = await picture_of(site, known(job))
    headers = {"ETag": f'"{picture.sha256}-{thumbnails.SIDE}"', "Cache-Control": CACHE}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    data = await site.painting(kept.of, picture, lambda stored: read(site.client.storage, stored))
    return Response(data, headers=headers, media_type=thumbnails.MEDIA_TYPE)


def indexed(site: Parts) -> Index:
    """The index of the site. Raises `Refused` where it has none."""
    if site.index is None:
        raise Refused(503, "no-index", "this site keeps no index of pictures")
    return site.index
