"""Workers, models and LoRAs: who renders with what, how fast, and why not; and what the farm keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from farm.bucket.loras import LORAS
from farm.bucket.models import KINDS, MODELS, StoredModel
from farm.client.kept import all_kept
from farm.client.services import ModelService
from farm.errors import InvalidInput
from farm.web.pages import frame
from farm.web.parts import LOOKS, OPERATES, InSite, Parts
from farm.web.problems import Problem, Refused, told_by
from farm.web.v1 import adding

router = APIRouter(include_in_schema=False)

_LOOK = "/workers/look"
LARGE = frozenset({_LOOK})
_WAYS = {"models": adding.MODEL, "loras": adding.LORA}


@dataclass(frozen=True)
class Model:
    """A model that the farm keeps, is served, or has jobs for."""

    name: str
    service: ModelService
    kept: StoredModel | None

    @property
    def kind(self) -> str:
        return KINDS[self.kept.kind] if self.kept else ""


@router.get("/workers", dependencies=[LOOKS])
async def workers(request: Request, site: InSite) -> Response:
    """The live workers, the models and the LoRAs."""
    live = await site.workers() or ()
    drained = await site.ledger(site.client.ledger.drained)
    models, trouble = await site.bucket(_models, site)
    loras, lora_trouble = await site.bucket(all_kept, site.client, LORAS)
    return frame.page(
        request.scope,
        "workers.html",
        workers=live,
        absent=[one for one in drained if one.name not in {worker.name for worker in live}],
        models=models,
        loras=[loras[name] for name in sorted(loras)],
        kinds=KINDS,
        trouble=trouble,
        lora_trouble=lora_trouble,
    )


@router.post(_LOOK, dependencies=[OPERATES])
async def look(
    request: Request,
    site: InSite,
    kept: Literal["models", "loras"],
    name: Annotated[str, Query(max_length=200)],
    size: Annotated[int, Query(ge=0, le=10**15)],
    file: adding.File = None,
) -> dict[str, Problem | None]:
    """What is wrong with a name, or a file of so many bytes, whose beginning is the body: before all of it is sent."""
    try:
        await adding.looked_at(site, _WAYS[kept], name, await request.body(), size, file)
    except (InvalidInput, Refused) as error:
        return {"problem": told_by(error)[0]}
    return {"problem": None}


def _models(site: Parts) -> tuple[list[Model], list[str]]:
    services = {service.name: service for service in site.client.models()}
    kept, trouble = all_kept(site.client, MODELS)
    return [*_together(services, kept)], trouble


def _together(services: Mapping[str, ModelService], kept: Mapping[str, StoredModel]) -> Iterator[Model]:
    for name in sorted({*services, *kept}):
        yield Model(name, services.get(name) or ModelService(name, (), 0), kept.get(name))
