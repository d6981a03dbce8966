"""The models that can be named; any other name means the farm's own choice."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from farm.alike import did_you_mean
from farm.web.openai.errors import errors
from farm.web.parts import LOOKS, InSite
from farm.web.problems import Refused
from farm.web.served import served

router = APIRouter()


@router.get("/models", dependencies=[LOOKS], responses=errors())
async def models(site: InSite) -> dict[str, Any]:
    """The models that live workers serve, and the one that a request is given which names none."""
    return {"object": "list", "data": [_described(name) for name in (await served(site)).names]}


@router.get("/models/{model}", dependencies=[LOOKS], responses=errors(404))
async def model(site: InSite, model: str) -> dict[str, Any]:
    """One of them."""
    known = await served(site)
    name = known.find(model)
    if name is None:
        hint = did_you_mean([model], known.names, "GET /v1/models lists them")
        raise Refused(404, "model-not-found", f"there is no model {model!r:.80}", hint=hint)
    return _described(name)


def _described(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "render-farm"}
