"""What programs ask about before they ask for a picture: models, samplers, options, and much that the farm has not."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from farm.jobs.samplers import KNOWN, SCHEDULE_TITLES, SCHEDULES
from farm.web.a1111.errors import errors
from farm.web.a1111.options import Settings
from farm.web.a1111.tasks import InTasks
from farm.web.document import body_of
from farm.web.parts import LOOKS, InSite, Looking, Submitting
from farm.web.reading import parsed
from farm.web.served import served

router = APIRouter()

_NOTHING = (
    "sd-vae",
    "latent-upscale-modes",
    "prompt-styles",
    "hypernetworks",
    "face-restorers",
    "realesrgan-models",
    "script-info",
    "extensions",
)
"""Lists of what the farm has none of."""
_REFRESHED = ("refresh-checkpoints", "refresh-vae", "refresh-loras")
"""What programs have looked up anew, and the farm always looks up."""


@router.get("/options", responses=errors())
async def options(site: InSite, caller: Looking, tasks: InTasks) -> dict[str, Any]:
    """What the caller has chosen."""
    return tasks.options(caller.name).told(await served(site))


@router.post("/options", responses=errors(), openapi_extra=body_of(Settings))
async def set_options(request: Request, site: InSite, caller: Submitting, tasks: InTasks) -> dict[str, Any]:
    """Choose a model, for the caller's requests alone. All that `GET` tells may come back with it."""
    asked = await parsed(Settings, request)
    known = await served(site)
    tasks.choose(caller.name, lambda before: asked.over(before, known))
    return {}


@router.get("/sd-models", dependencies=[LOOKS], responses=errors())
async def models(site: InSite) -> list[dict[str, Any]]:
    """The models that live workers serve, and the one that a request is given which names none."""
    return [
        {"title": name, "model_name": name, "hash": None, "sha256": None, "filename": name, "config": None}
        for name in (await served(site)).names
    ]


@router.get("/samplers", dependencies=[LOOKS], responses=errors())
async def samplers() -> list[dict[str, Any]]:
    """The samplers, by A1111's names."""
    return [{"name": known.title, "aliases": [known.name, *known.aliases], "options": {}} for known in KNOWN.values()]


@router.get("/schedulers", dependencies=[LOOKS], responses=errors())
async def schedulers() -> list[dict[str, Any]]:
    """The schedules, by A1111's names."""
    return [
        {
            "name": SCHEDULE_TITLES[name].casefold().replace(" ", "_"),
            "label": SCHEDULE_TITLES[name],
            "aliases": None,
            "default_rho": -1.0,
            "need_inner_model": False,
        }
        for name in SCHEDULES
    ]


@router.get("/upscalers", dependencies=[LOOKS], responses=errors())
async def upscalers() -> list[dict[str, Any]]:
    """None, by the name that it has."""
    return [{"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 1.0}]


@router.get("/embeddings", dependencies=[LOOKS], responses=errors())
async def embeddings(site: InSite) -> dict[str, Any]:
    """The embeddings that live workers know; what is in them they do not say."""
    workers = await site.ledger(site.client.workers)
    unknown = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "shape": None, "vectors": None}
    return {"loaded": {name: unknown for worker in workers for name in worker.embeddings}, "skipped": {}}


@router.get("/loras", dependencies=[LOOKS], responses=errors())
async def loras(site: InSite) -> list[dict[str, Any]]:
    """The LoRAs that the farm keeps, which prompts name by tags; where they lie is nobody's business."""
    return [
        {
            "name": kept.name,
            "alias": kept.name,
            "path": kept.name,
            "metadata": {"ss_output_name": kept.title, "ss_base_model_version": kept.base},
        }
        for kept in await site.bucket(site.client.loras)
    ]


@router.get("/scripts", dependencies=[LOOKS], responses=errors())
async def scripts() -> dict[str, list[str]]:
    """None of either kind."""
    return {"txt2img": [], "img2img": []}


@router.get("/memory", dependencies=[LOOKS], responses=errors())
async def memory() -> dict[str, Any]:
    """What A1111 says where it cannot tell: the memory is that of many machines."""
    return {"ram": {"error": "unavailable"}, "cuda": {"error": "unavailable"}}


@router.get("/cmd-flags", dependencies=[LOOKS], responses=errors())
async def flags() -> dict[str, Any]:
    """How A1111 would have been started."""
    return {"api": True, "nowebui": True}


async def _none() -> list[Any]:
    """None."""
    return []


async def _refresh() -> dict[str, Any]:
    """Nothing to do."""
    return {}


for _path in _NOTHING:
    router.add_api_route(f"/{_path}", _none, name=_path, dependencies=[LOOKS], responses=errors())
for _path in _REFRESHED:
    router.add_api_route(f"/{_path}", _refresh, methods=["POST"], name=_path, dependencies=[LOOKS], responses=errors())
