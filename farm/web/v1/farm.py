"""What the farm has: workers, models, LoRAs, losses."""

from __future__ import annotations

from fastapi import APIRouter

from farm.client.services import ModelService
from farm.jobs.losses import LossDeclaration
from farm.jobs.status import WorkerInfo
from farm.web.parts import LOOKS, InSite
from farm.web.v1.shapes import Lora, problems

router = APIRouter(tags=["Farm"])


@router.get("/workers", dependencies=[LOOKS], responses=problems())
async def workers(site: InSite) -> list[WorkerInfo]:
    """The workers that live now."""
    return [*await site.ledger(site.client.workers)]


@router.get("/models", dependencies=[LOOKS], responses=problems())
async def models(site: InSite) -> list[ModelService]:
    """Every model that a live worker serves or a job waits for."""
    return [*await site.ledger(site.client.models)]


@router.get("/loras", dependencies=[LOOKS], responses=problems())
async def loras(site: InSite) -> list[Lora]:
    """The LoRAs that the farm keeps, which jobs name."""
    return [Lora.of(kept) for kept in await site.bucket(site.client.loras)]


@router.get("/losses", dependencies=[LOOKS], responses=problems())
async def losses(site: InSite) -> list[LossDeclaration]:
    """The losses that can guide a picture: the built-in ones, and those that live workers add."""
    return [*await site.ledger(site.client.losses)]
