"""What a PNG says of how it was made. It is anybody's words: read within bounds, and told as they are."""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from farm.errors import InvalidInput
from farm.pictures.images import MAX_BYTES
from farm.pictures.metadata import read_texts
from farm.web.a1111.answer import PARAMETERS
from farm.web.a1111.asked import picture
from farm.web.a1111.errors import errors
from farm.web.document import body_of
from farm.web.parts import LOOKS, InSite
from farm.web.reading import parsed

router = APIRouter()

_SETTING = re.compile(r'\s*(\w[\w \-/]{1,60}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"([0-9]{1,6})x([0-9]{1,6})")
_FEWEST = 3
"""A last line with fewer settings than that is one of the prompt, as A1111 reads it."""
_LONGEST = 20_000
_NEGATIVE = "Negative prompt:"


class PngInfo(BaseModel):
    """A picture, in base64."""

    image: str


@router.post("/png-info", dependencies=[LOOKS], responses=errors(), openapi_extra=body_of(PngInfo))
async def png_info(request: Request, site: InSite) -> dict[str, Any]:
    """The text in a PNG, and the settings that it names."""
    asked = await parsed(PngInfo, request)
    return await site.bucket(_read, asked.image)


def _read(image: str) -> dict[str, Any]:
    data = picture(image, field="image")
    if len(data) > MAX_BYTES:
        raise InvalidInput(f"the picture is larger than {MAX_BYTES // 2**20} MiB", field="image")
    items = read_texts(data)
    info = items.pop(PARAMETERS, "")
    return {"info": info, "items": items, "parameters": settings(info)}


def settings(text: str) -> dict[str, str]:
    """What an infotext names: the prompts, and the settings of its last line."""
    *lines, last = text.strip().split("\n")
    found = _SETTING.findall(last) if len(last) <= _LONGEST else []
    if len(found) < _FEWEST:
        lines, found = [*lines, last], []
    prompt, _, negative = "\n".join(lines).partition(_NEGATIVE)
    told = {"Prompt": prompt.strip(), "Negative prompt": negative.strip()}
    for name, value in found:
        told[name] = _unquoted(value)
        if size := _SIZE.fullmatch(value):
            told[f"{name}-1"], told[f"{name}-2"] = size.groups()
    return told


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value.strip()
    try:
        return str(json.loads(value))
    except ValueError:
        return value
