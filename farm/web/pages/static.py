"""What pages load: the style and the scripts of this package, under addresses that change with what is in them."""

from __future__ import annotations

import hashlib
from importlib import resources

from fastapi import APIRouter, Response

from farm.web.problems import Refused

router = APIRouter(include_in_schema=False)

_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FOLDER = resources.files("farm.web.pages").joinpath("static")
_FILES = {file.name: file.read_bytes() for file in _FOLDER.iterdir() if file.name.rpartition(".")[2] in _TYPES}
# One version for all of them: scripts import one another by name, and so from the same folder.
_VERSION = hashlib.sha256(b"".join(_FILES[name] for name in sorted(_FILES))).hexdigest()[:16]
_CACHE = "public, max-age=31536000, immutable"


def address(name: str) -> str:
    """Where a file of the folder `static` is to be had. Raises `KeyError` for one that is not there."""
    _ = _FILES[name]
    return f"/static/{_VERSION}/{name}"


PUBLIC = frozenset(map(address, _FILES))


@router.get("/static/{version}/{name}")
async def file(version: str, name: str) -> Response:
    """One of the files. One of another version is this version's, and not kept: the page is older than the site."""
    if name not in _FILES:
        raise Refused(404, "not-found", "there is nothing here")
    headers = {"Cache-Control": _CACHE} if version == _VERSION else {}
    return Response(_FILES[name], headers=headers, media_type=_TYPES[name.rpartition(".")[2]])
