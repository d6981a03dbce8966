"""From requests to jobs: everything is checked, and every seed and id is drawn, before anything is sent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from farm import keys, variables
from farm.errors import InvalidInput
from farm.jobs.losses import BUILTIN, LossDeclaration
from farm.jobs.request import JobRequest
from farm.jobs.spec import InitReference
from farm.jobs.status import WorkerInfo
from farm.ledger.records import NewJob
from farm.pictures.images import InitImage, read_init

FALLBACK_MODEL = "emoji"


def plan(
    requests: Sequence[JobRequest],
    batch: str,
    images: dict[Path, InitImage],
    *,
    default_model: str,
    declarations: Sequence[LossDeclaration],
) -> Sequence[NewJob]:
    """The jobs that requests make, numbered in order. Raises `InvalidInput`."""
    jobs: list[NewJob] = []
    for request in requests:
        image = images.get(request.init) if request.init else None
        reference = reference_to(image) if image else None
        for spec in request.specs(reference, default_model=default_model, declarations=declarations):
            jobs.append(NewJob(keys.job_in_batch(batch, len(jobs)), spec, request.priority, request.labels))
    if not jobs:
        raise InvalidInput("there is nothing to submit")
    return jobs


def reference_to(image: InitImage) -> InitReference:
    """How specs name an init image."""
    fields = {name: getattr(image, name) for name in InitReference.model_fields}
    return InitReference.model_validate(fields)


def dry_run(requests: Sequence[JobRequest]) -> Sequence[NewJob]:
    """The jobs that `submit` would make, without any connection; built-in losses only. Raises `InvalidInput`."""
    model = variables.MODEL.of(os.environ) or FALLBACK_MODEL
    return plan(requests, keys.new_batch_id(), _init_images(requests), default_model=model, declarations=BUILTIN)


def default_model(workers: Iterable[WorkerInfo]) -> str:
    """`$FARM_MODEL`; else the one model that all live workers serve; else `emoji`."""
    named = variables.MODEL.of(os.environ)
    served = {name for worker in workers for name in worker.models}
    return named or (served.pop() if len(served) == 1 else FALLBACK_MODEL)


def known_losses(workers: Iterable[WorkerInfo]) -> Sequence[LossDeclaration]:
    """The built-in losses, then the third-party ones that workers announce."""
    known = {declaration.name: declaration for declaration in BUILTIN}
    for worker in workers:
        for declaration in worker.losses:
            known.setdefault(declaration.name, declaration)
    return list(known.values())


def check(requests: Sequence[JobRequest]) -> dict[Path, InitImage]:
    """Check all that can be checked without a connection. Returns the init images. Raises `InvalidInput`.

    A request whose loss is not built in is checked when workers have said which losses they know.
    """
    images = _init_images(requests)
    builtin = {declaration.name for declaration in BUILTIN}
    for request in requests:
        if all(loss.name in builtin for loss in request.losses):
            one = request.model_copy(update={"count": 1})
            one.specs(None if request.init is None else _ANY_IMAGE, default_model=FALLBACK_MODEL)
    return images


_ANY_IMAGE = InitReference(sha256="0" * 64, extension="png")


def _init_images(requests: Iterable[JobRequest]) -> dict[Path, InitImage]:
    paths = dict.fromkeys(request.init for request in requests if request.init)
    return {path: read_init(path) for path in paths}
