"""Results: what jobs made, and how they look meanwhile. Only what a job's own result names is ever read."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.responses import StreamingResponse

from farm.bucket.results import JobResult, ResultObject
from farm.bucket.storage import is_loopback
from farm.errors import FetchRefused
from farm.jobs.spec import InitReference
from farm.pictures.images import MAX_BYTES
from farm.web.bridge import Bridge
from farm.web.parts import LOOKS, InSite, Parts
from farm.web.problems import Refused
from farm.web.v1.jobs import known
from farm.web.v1.made import result_of
from farm.web.v1.shapes import Logged, Looks, problems

router = APIRouter(tags=["Results"])

LINK_SECONDS = 300
_TYPES = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "webp": "image/webp",
    "mp4": "video/mp4",
    "json": "application/json",
    "jsonl": "application/x-ndjson",
}
"""What browsers may show; anything else is for keeping, whatever its result says that it is."""
CACHE = "private, max-age=31536000, immutable"


@router.get("/jobs/{job}/result", dependencies=[LOOKS], responses=problems(404, 409))
async def result(site: InSite, job: str) -> JobResult:
    """The `result.json` of a job that is done: what was made, from what, where, and how long it took."""
    return await result_of(site, known(job))


@router.get("/jobs/{job}/log", dependencies=[LOOKS], responses=problems(404))
async def log(site: InSite, job: str) -> Logged:
    """The last lines that workers logged of a job, by attempt: of those that were anything but a plain success."""
    return Logged(job=job, attempts=[*await site.bucket(site.client.logs, known(job))])


_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture.", "content": {"image/*": {"schema": {"type": "string"}}}},
    **problems(404, 409),
}


@router.get("/jobs/{job}/init", dependencies=[LOOKS], status_code=200, response_class=Response, responses=_PICTURE)
async def init(site: InSite, job: str) -> Response:
    """The picture that a finished job started from."""
    return await _given(site, job, (await result_of(site, known(job))).spec.start.image, "init picture")


@router.get("/jobs/{job}/mask", dependencies=[LOOKS], status_code=200, response_class=Response, responses=_PICTURE)
async def mask(site: InSite, job: str) -> Response:
    """The mask of the picture that a finished job started from."""
    return await _given(site, job, (await result_of(site, known(job))).spec.start.mask, "mask")


async def _given(site: Parts, job: str, image: InitReference | None, what: str) -> Response:
    """A picture that came along with a job. Raises `Refused` if none did."""
    if image is None:
        raise Refused(404, "object-not-found", f"job {job} had no {what}")
    data = await site.bucket(site.client.storage.get, image.key, limit=MAX_BYTES)
    if hashlib.sha256(data).hexdigest() != image.sha256:
        raise FetchRefused(f"{image.key} is not what its name says")
    return Response(data, headers={"Cache-Control": CACHE}, media_type=_TYPES[image.extension])


@router.get(
    "/jobs/{job}/objects/{name:path}",
    dependencies=[LOOKS],
    status_code=200,
    response_class=Response,
    responses={
        200: {"description": "The object.", "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "It is what `If-None-Match` says."},
        307: {"description": "A link to it that lasts five minutes, in `Location`."},
        **problems(404, 409),
    },
)
async def result_object(
    request: Request,
    site: InSite,
    job: str,
    name: Annotated[str, Path(max_length=200, examples=["image.png"])],
    delivery: Annotated[
        Literal["redirect", "stream"] | None,
        Query(
            description="By a link to the bucket, or through here; by itself, a link if others can reach the bucket."
        ),
    ] = None,
) -> Response:
    """One of the objects that a result names, such as `image.png`; through here it is checked by its SHA-256."""
    found = (await result_of(site, known(job))).objects.get(name)
    if found is None:
        raise Refused(404, "object-not-found", f"job {job} made no {name!r:.80}", hint="its result names what it made")
    if (delivery or usual(site)) == "redirect":
        link = await site.bucket(site.client.storage.presign, found.key, seconds=LINK_SECONDS)
        return Response(status_code=307, headers={"Location": link})
    headers = {"ETag": f'"{found.sha256}"', "Cache-Control": CACHE}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    media = _TYPES.get(name.rpartition(".")[2])
    if media is None:
        headers["Content-Disposition"] = "attachment"
    headers["Content-Length"] = str(found.size)
    parts = await _begun(site.bucket, site.client.storage.parts(found.key, limit=found.size), found)
    return StreamingResponse(parts, headers=headers, media_type=media or "application/octet-stream")


@router.get(
    "/jobs/{job}/preview",
    dependencies=[LOOKS],
    status_code=200,
    response_class=Response,
    responses={
        200: {"description": "The preview.", "content": {"image/png": {"schema": {"type": "string"}}}},
        **problems(404),
    },
)
async def preview(site: InSite, job: str) -> Response:
    """How a running job looks, one pixel for each of its latents; ask about once a second.

    Workers make previews only while somebody looks, so that the first one takes a moment.
    """
    found = (await site.bucket(site.client.previews, [known(job)])).get(job)
    if found is None:
        raise Refused(
            404, "no-preview", f"there is no preview of job {job} (yet)", hint="ask again while it is running"
        )
    width, height = found.size
    headers = {"Farm-Attempt": str(found.attempt), "Farm-Step": str(found.step), "Farm-Size": f"{width}x{height}"}
    return Response(found.to_png(), headers=headers, media_type="image/png")


@router.get("/previews", dependencies=[LOOKS], responses=problems(404))
async def previews(
    site: InSite,
    name: Annotated[
        list[Annotated[str, Query(max_length=100)]], Query(min_length=1, max_length=16, description="Ids of jobs.")
    ],
) -> dict[str, Looks]:
    """How several jobs look, as far as there is anything to see; ask about once a second."""
    found = await site.bucket(site.client.previews, [known(job) for job in name])
    return {job: Looks.of(preview) for job, preview in found.items()}


def usual(site: Parts) -> Literal["redirect", "stream"]:
    """By which way objects come unless one is asked for: by a link to the bucket, if others can reach it."""
    where = site.client.settings
    reachable = where.s3_public_endpoint or not is_loopback(where.s3_endpoint)
    return "redirect" if reachable else "stream"


async def _begun(bucket: Bridge, parts: Iterator[bytes], found: ResultObject) -> AsyncIterator[bytes]:
    """The object's parts, of which the first has been read: what is away is told before an answer begins.

    The last is held back until the checksum is right, so that nothing damaged is ever whole.
    """
    digest = hashlib.sha256()

    async def following() -> bytes:
        part: bytes = await bucket(next, parts, b"")
        digest.update(part)
        return part

    async def checked(held: bytes, then: bytes) -> AsyncIterator[bytes]:
        while then:
            yield held
            held, then = then, await following()
        check()
        yield held

    def check() -> None:
        if digest.hexdigest() != found.sha256:
            raise FetchRefused(f"{found.key} does not match the checksum in its result")

    held = await following()
    then = await following() if held else b""
    if not then:
        check()
    return checked(held, then)
