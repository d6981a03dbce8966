"""What the farm has: workers, models, LoRAs, losses."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

from fastapi import APIRouter, Query

from farm.alike import did_you_mean
from farm.bucket.loras import LORAS
from farm.bucket.models import MODELS, StoredModel
from farm.bucket.shelf import Shelf
from farm.client import loras as keeping_loras
from farm.client import models as keeping
from farm.client.draining import Told
from farm.client.keeping import Removed
from farm.errors import StorageError, WrongBucket
from farm.jobs.losses import LossDeclaration
from farm.jobs.status import WorkerInfo
from farm.web.bridge import in_time
from farm.web.parts import LOOKS, OPERATES, InSite, Parts
from farm.web.problems import Refused
from farm.web.v1.shapes import Lora, Model, problems
from farm.web.v1.words import in_words_of_the_api

router = APIRouter(tags=["Farm"])

_BUCKET_SECONDS = 3.0


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
async def models(site: InSite) -> list[Model]:
    """Every model that the farm keeps, a live worker serves, or a job waits for.

    A bucket that does not answer within a few seconds keeps nobody from hearing of the others.
    """
    services = {service.name: service for service in await site.ledger(site.client.models)}
    kept: dict[str, StoredModel] | None = None
    with contextlib.suppress(TimeoutError, StorageError, WrongBucket, Refused):
        kept = {one.name: one for one in await in_time(site.bucket(site.client.kept_models), _BUCKET_SECONDS)}
    return [Model.of(name, services.get(name), kept) for name in sorted({*services, *(kept or ())})]


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
        _check_kept(MODELS, site, name)
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
        _check_kept(LORAS, site, name)
        with in_words_of_the_api():
            return keeping_loras.remove(site.client.ledger, site.client.storage, name, force=force)

    return await site.bucket(remove)


@router.get("/losses", dependencies=[LOOKS], responses=problems())
async def losses(site: InSite) -> list[LossDeclaration]:
    """The losses that can guide a picture: the built-in ones, and those that live workers add."""
    return [*await site.ledger(site.client.losses)]


def _check_kept(shelf: Shelf[Any], site: Parts, name: str) -> None:
    """Raise `Refused` unless the farm keeps something of this name."""
    kept = shelf.manifests(site.client.storage)
    if name not in kept:
        raise Refused(
            404,
            f"{shelf.what.lower()}-not-kept",
            shelf.lacks(name, kept).message,
            hint=None if name in shelf.built_in else did_you_mean([name], kept, f"'{shelf.command}' lists them"),
        )
