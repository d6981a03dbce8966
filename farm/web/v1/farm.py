"""What the farm has: workers, models, LoRAs, losses."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from farm.bucket.loras import LORAS
from farm.bucket.models import manifests
from farm.client import loras as keeping_loras
from farm.client import models as keeping
from farm.client.draining import Told
from farm.client.keeping import Removed
from farm.client.services import ModelService
from farm.jobs.losses import LossDeclaration
from farm.jobs.status import WorkerInfo
from farm.web.parts import LOOKS, OPERATES, InSite
from farm.web.problems import Refused
from farm.web.v1.shapes import Lora, problems
from farm.web.v1.words import in_words_of_the_api

router = APIRouter(tags=["Farm"])


@router.get("/workers", dependencies=[LOOKS], responses=problems())
async def workers(site: InSite) -> list[WorkerInfo]:
    """The workers that live now."""
    return [*await site.ledger(site.client.workers)]


@router.post("/workers/{id:path}/drain", dependencies=[OPERATES], responses=problems(404))
async def drain(
    site: InSite,
    id: str,
    hand_back: Annotated[
        bool, Query(description="What it has goes back to the queue, at the step it reached.")
    ] = False,
) -> Told:
    """Let a worker take no more jobs, and finish those it has. `id` may be its name, the id without `-` and its last
    four characters: all of that name are drained, also when they are started anew, until they are resumed."""
    return await site.ledger(site.client.drain, [id], hand_back=hand_back)


@router.post("/workers/{id:path}/resume", dependencies=[OPERATES], responses=problems(404))
async def resume(site: InSite, id: str) -> Told:
    """Let a worker that was drained take jobs again, and all others of its name."""
    return await site.ledger(site.client.resume, [id])


@router.get("/models", dependencies=[LOOKS], responses=problems())
async def models(site: InSite) -> list[ModelService]:
    """Every model that a live worker serves or a job waits for."""
    return [*await site.ledger(site.client.models)]


@router.get("/loras", dependencies=[LOOKS], responses=problems())
async def loras(site: InSite) -> list[Lora]:
    """The LoRAs that the farm keeps, which jobs name."""
    return [Lora.of(kept) for kept in await site.bucket(site.client.loras)]


@router.delete("/models/{name}", dependencies=[OPERATES], responses=problems(404, 409))
async def remove_model(
    site: InSite,
    name: str,
    force: Annotated[bool, Query(description="Even while jobs wait for it; they go on waiting.")] = False,
) -> Removed:
    """Keep a model no longer: what no other model has of it is deleted from the bucket."""

    def remove() -> Removed:
        site.client.check_bucket()
        if name not in manifests(site.client.storage):
            raise Refused(
                404, "model-not-kept", f"the farm keeps no model {name!r:.80}", hint="'farm models' lists them"
            )
        with in_words_of_the_api():
            return keeping.remove(site.client.ledger, site.client.storage, name, force=force)

    return await site.bucket(remove)


@router.delete("/loras/{name}", dependencies=[OPERATES], responses=problems(404, 409))
async def remove_lora(
    site: InSite,
    name: str,
    force: Annotated[bool, Query(description="Even while jobs wait for it, which fail then.")] = False,
) -> Removed:
    """Keep a LoRA no longer: its file is deleted from the bucket, unless another name has the same."""

    def remove() -> Removed:
        site.client.check_bucket()
        if name not in LORAS.manifests(site.client.storage):
            raise Refused(404, "lora-not-kept", f"the farm keeps no LoRA {name!r:.80}", hint="'farm loras' lists them")
        with in_words_of_the_api():
            return keeping_loras.remove(site.client.ledger, site.client.storage, name, force=force)

    return await site.bucket(remove)


@router.get("/losses", dependencies=[LOOKS], responses=problems())
async def losses(site: InSite) -> list[LossDeclaration]:
    """The losses that can guide a picture: the built-in ones, and those that live workers add."""
    return [*await site.ledger(site.client.losses)]
