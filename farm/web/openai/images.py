"""Pictures of a prompt, and of a prompt and a picture, in one answer or as a stream."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.datastructures import UploadFile
from starlette.responses import StreamingResponse

from farm.errors import InvalidInput
from farm.pictures.images import MAX_BYTES
from farm.web import waiting
from farm.web.access import Caller
from farm.web.document import body_of
from farm.web.openai.asked import MOST_PICTURES, NAMES, Edit, Generation
from farm.web.openai.errors import errors
from farm.web.openai.links import InLinks, Links, link
from farm.web.openai.masks import pixels_of, redone
from farm.web.openai.stream import stream
from farm.web.parts import InSite, Parts, Submitting
from farm.web.reading import parsed, validated
from farm.web.rendering import begun, done, drafted, made
from farm.web.served import served

router = APIRouter()

_MOST_FILES, _MOST_FIELDS = 17, 64
_IMAGES = ("image", "image[]")

_TEXT = {"type": "string"}
_PICTURES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The pictures; with `stream` as events, the last of which has the picture.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "created": {"type": "integer"},
                        "data": {
                            "type": "array",
                            "items": {"type": "object", "properties": {"b64_json": _TEXT, "url": _TEXT}},
                        },
                    },
                    "required": ["created", "data"],
                }
            },
            "text/event-stream": {"schema": _TEXT},
        },
    }
}
_ANSWERS = {**_PICTURES, **errors(408, 504)}


@router.post("/generations", response_class=StreamingResponse, responses=_ANSWERS, openapi_extra=body_of(Generation))
async def generations(request: Request, site: InSite, caller: Submitting, links: InLinks) -> StreamingResponse:
    """Pictures of a prompt. A client that goes away cancels those that only it waited for."""
    asked = await parsed(Generation, request)
    return await _answered(
        request, site, caller, links, asked, asked.fields(await served(site)), {}, kind="image_generation"
    )


@router.post("/edits", response_class=StreamingResponse, responses=_ANSWERS, openapi_extra=body_of(Edit, form=True))
async def edits(request: Request, site: InSite, caller: Submitting, links: InLinks) -> StreamingResponse:
    """Pictures that begin with another, which is a file of the form."""
    given, files = await _form(request)
    asked = validated(Edit, given)
    if "mask" in files:
        site.usage.pixels(caller.name, pixels_of(files["mask"]))
        files["mask"] = await site.bucket(redone, files["mask"])
    fields = asked.fields(await served(site), masked="mask" in files)
    return await _answered(request, site, caller, links, asked, fields, files, kind="image_edit")


async def _form(request: Request) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The fields and the pictures of a form. Raises `InvalidInput`."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise InvalidInput(
            "the body is not a form", field="Content-Type", hint="multipart/form-data, with a file image"
        )
    fields: dict[str, Any] = {}
    pictures: list[bytes] = []
    masks: list[bytes] = []
    async with request.form(max_files=_MOST_FILES, max_fields=_MOST_FIELDS, max_part_size=MAX_BYTES) as form:
        for name, value in form.multi_items():
            into = pictures if name in _IMAGES else masks if name == "mask" else None
            if isinstance(value, UploadFile):
                if into is not None:
                    into.append(await value.read())
            elif into is not None:
                hint = "send the picture itself, as a file; a server opens no path and no URL of a client's"
                raise InvalidInput("is no file", field=name.removesuffix("[]"), hint=hint)
            elif value != "":
                fields[name] = value
    if len(pictures) != 1:
        raise InvalidInput(f"there are {len(pictures)} pictures to begin with", field="image", hint="send one")
    if len(masks) > 1:
        raise InvalidInput(f"there are {len(masks)} masks", field="mask", hint="send one")
    return fields, {"image": pictures[0], **({"mask": masks[0]} if masks else {})}


async def _answered(
    request: Request,
    site: Parts,
    caller: Caller,
    links: Links,
    asked: Generation,
    fields: Mapping[str, Any],
    files: Mapping[str, bytes],
    *,
    kind: str,
) -> StreamingResponse:
    drafts = await drafted(site, caller, fields, files=files, most=MOST_PICTURES, names=NAMES)
    if asked.stream:
        return await stream(site, caller, asked, drafts, kind=kind)
    with site.usage.stream(caller.name):
        submission = await site.bucket(site.client.submit, drafts)
        longest = site.usage.limits.wait_seconds
        statuses = await waiting.over(site, request, submission.jobs, seconds=longest, gives_up=True)
        jobs = await done(site, submission.jobs, statuses, whole=True)
    return StreamingResponse(await begun(_parts(request, site, links, asked, jobs)), media_type="application/json")


async def _parts(
    request: Request, site: Parts, links: Links, asked: Generation, jobs: Sequence[str]
) -> AsyncIterator[str]:
    """The JSON of the answer, picture by picture, so that no more than one of them is held at a time."""
    begin = f'{{"created": {int(time.time())}, "data": ['
    size = ""
    for job in jobs:
        picture = await made(site, job)
        size = f"{picture.result.spec.width}x{picture.result.spec.height}"
        if asked.response_format == "url":
            told = {"url": await link(request, site, links, picture, asked.encoding)}
        else:
            file = await site.bucket(asked.encoding.of_png, picture.png)
            told = {"b64_json": base64.b64encode(file).decode()}
        yield begin + json.dumps(told)
        begin = ", "
    rest = {"background": "opaque", "output_format": asked.encoding.format, "size": size}
    yield f"], {json.dumps(rest)[1:]}"
