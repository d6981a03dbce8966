"""Links to pictures that need no token: signed, and of no use after an hour, or when this process has ended.

Where others reach the bucket, a link to a PNG leads there.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response

from farm.web.openai.encoding import Encoding, Format
from farm.web.openai.errors import errors
from farm.web.parts import InSite, Parts
from farm.web.problems import Refused
from farm.web.rendering import Made, made
from farm.web.v1.jobs import known
from farm.web.v1.results import usual

SECONDS = 3_600
PATH = "/images/picture"

router = APIRouter()


class Links:
    """Makes links to pictures, and knows its own. `clock` gives seconds since 1970."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._key, self._clock = secrets.token_bytes(32), clock

    def query(self, job: str, encoding: Encoding) -> str:
        """The query of a link to a job's picture."""
        expires = int(self._clock()) + SECONDS
        signature = self._signature(job, encoding, expires)
        return urlencode(
            {"job": job, "format": encoding.format, "quality": encoding.quality, "expires": expires, "sign": signature}
        )

    def check(self, job: str, encoding: Encoding, expires: int, signature: str) -> None:
        """Raises `Refused` for a link that is none of ours, or not any more."""
        right = self._signature(job, encoding, expires)
        is_ours = hmac.compare_digest(right.encode(), signature.encode("utf-8", "surrogateescape"))
        if not is_ours or self._clock() > expires:
            raise Refused(403, "link-not-valid", "this link is of no use (any more)", hint="ask for the picture again")

    def _signature(self, job: str, encoding: Encoding, expires: int) -> str:
        text = "\0".join((job, encoding.format, str(encoding.quality), str(expires)))
        return hmac.new(self._key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


async def links_of(request: Request) -> Links:
    """The links of the site that a request came to."""
    links: Links = request.app.state.openai
    return links


InLinks = Annotated[Links, Depends(links_of)]


async def link(request: Request, site: Parts, links: Links, picture: Made, encoding: Encoding) -> str:
    """The address of a picture, for whoever has it."""
    if encoding.format == "png" and usual(site) == "redirect":
        return await site.bucket(site.client.storage.presign, picture.result.picture.key, seconds=SECONDS)
    return f"{request.url_for('linked_picture')}?{links.query(picture.result.job, encoding)}"


@router.get(
    PATH,
    status_code=200,
    response_class=Response,
    openapi_extra={"security": []},
    responses={
        200: {
            "description": "The picture.",
            "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
        },
        **errors(404, 409),
    },
)
async def linked_picture(
    site: InSite,
    links: InLinks,
    job: Annotated[str, Query(max_length=100)],
    format: Annotated[Format, Query()],
    quality: Annotated[int, Query(ge=0, le=100)],
    expires: Annotated[int, Query(ge=0, le=2**40)],
    sign: Annotated[str, Query(max_length=100)],
) -> Response:
    """A picture, by a link that an answer had."""
    encoding = Encoding(format, quality)
    links.check(job, encoding, expires, sign)
    picture = await made(site, known(job))
    shown = {"Cross-Origin-Resource-Policy": "cross-origin"}
    return Response(await site.bucket(encoding.of_png, picture.png), headers=shown, media_type=encoding.media_type)
