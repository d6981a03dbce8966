"""From requests to jobs: everything is checked, and every seed and id is drawn, before anything is sent.

That takes two steps. A request is *drafted* without a connection: its init picture is read and its specs are made, so
that bad input is told before a missing farm is. Drafts are *planned* with what only a farm can say: the model of those
that name none, the losses that are not built in.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from farm import keys, variables
from farm.errors import InvalidInput
from farm.jobs.losses import BUILTIN, BUILTIN_NAMES, LossDeclaration
from farm.jobs.request import JobRequest
from farm.jobs.spec import InitReference, JobSpec
from farm.jobs.status import WorkerInfo
from farm.jobs.writing import ALPHA
from farm.ledger.records import NewJob
from farm.pictures import masks
from farm.pictures.images import InitImage, check_init, read_init
from farm.pictures.masks import Mask

FALLBACK_MODEL = "emoji"


@dataclass(frozen=True)
class Draft:
    """A request with its init picture, and its specs, of a model that may yet change if the request names none.

    `specs` is None for a request whose losses are not all built in: workers say what others there are. There is no
    `mask` if all of the picture is redone. `place` is where it is asked for, such as `sweep.yaml: job 3`, for errors
    that only a farm can tell.
    """

    request: JobRequest
    image: InitImage | None
    specs: Sequence[JobSpec] | None
    mask: InitImage | None = None
    place: str | None = None


@dataclass(frozen=True)
class Pictures:
    """The init pictures and masks of a submission, each of which is read and decoded once."""

    _known: dict[Path | bytes, InitImage] = field(default_factory=dict)
    _masks: dict[Path | bytes | str, Mask] = field(default_factory=dict)

    def read(self, init: Path | bytes) -> InitImage:
        """The picture in a file, or of these bytes. Raises `InvalidInput`."""
        known = self._known.get(init)
        if known is None:
            known = check_init(init, name="the init picture") if isinstance(init, bytes) else read_init(init)
            self._known[init] = known
        return known

    def read_mask(self, mask: Path | bytes | Literal["alpha"], picture: InitImage) -> Mask:
        """The mask in a file, of these bytes, or of what is transparent in its picture. Raises `InvalidInput`."""
        known = self._masks.get(place := picture.sha256 if mask == ALPHA else mask)
        if known is None:
            known = self._masks[place] = _read_mask(mask, picture)
        return known


def _read_mask(mask: Path | bytes | Literal["alpha"], picture: InitImage) -> Mask:
    if isinstance(mask, str):
        return masks.mask_of_transparency(picture)
    return masks.check_mask(mask, name="the mask") if isinstance(mask, bytes) else masks.read_mask(mask)


def draft(request: JobRequest, pictures: Pictures) -> Draft:
    """Check all of a request that can be checked without a connection. Raises `InvalidInput`."""
    image = None if request.init is None else pictures.read(request.init)
    mask = None if image is None else mask_of(request, image, pictures)
    if not all(loss.name in BUILTIN_NAMES for loss in request.losses):
        return Draft(request, image, None, mask)
    specs = request.specs(_reference_to(image), default_model=FALLBACK_MODEL, mask=_reference_to(mask))
    return Draft(request, image, specs, mask)


def mask_of(request: JobRequest, picture: InitImage, pictures: Pictures) -> InitImage | None:
    """The mask of a request; None if all of the picture is redone, which is img2img. Raises `InvalidInput`."""
    if (grown := request.outpaint) is not None:
        width, height = picture.width + grown.left + grown.right, picture.height + grown.top + grown.bottom
        masks.check_grown(width, height)
    if request.mask is None:
        return None
    redo = request.redo or "white"
    mask = pictures.read_mask(request.mask, picture)
    masks.check_pair(mask, picture, redo)
    is_img2img = mask.is_full(redo) and request.only_masked is None and request.outpaint is None
    return None if is_img2img else mask.image


def drafted(requests: Iterable[JobRequest | Draft]) -> list[Draft]:
    """Drafts of those requests that are none yet. Raises `InvalidInput`."""
    pictures = Pictures()
    return [request if isinstance(request, Draft) else draft(request, pictures) for request in requests]


def images_of(drafts: Iterable[Draft]) -> Sequence[InitImage]:
    """Their init pictures and masks, each once."""
    return list(dict.fromkeys(image for one in drafts for image in (one.image, one.mask) if image))


def plan(
    drafts: Iterable[Draft], batch: str, *, default_model: str, declarations: Sequence[LossDeclaration]
) -> Sequence[NewJob]:
    """The jobs that drafts make, numbered in order. Raises `InvalidInput`."""
    jobs: list[NewJob] = []
    for planned in drafts:
        request, specs = planned.request, planned.specs
        if specs is None:
            specs = request.specs(
                _reference_to(planned.image),
                default_model=default_model,
                declarations=declarations,
                mask=_reference_to(planned.mask),
            )
        for spec in specs:
            named = spec.of_model(request.model or default_model)
            jobs.append(NewJob(keys.job_in_batch(batch, len(jobs)), named, request.priority, request.labels))
    if not jobs:
        raise InvalidInput("there is nothing to submit")
    return jobs


def dry_run(requests: Iterable[JobRequest | Draft]) -> Sequence[NewJob]:
    """The jobs that `submit` would make, without any connection; built-in losses only. Raises `InvalidInput`."""
    return plan(drafted(requests), keys.new_batch_id(), default_model=default_model(()), declarations=BUILTIN)


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


def _reference_to(image: InitImage | None) -> InitReference | None:
    """How specs name an init picture or a mask."""
    if image is None:
        return None
    return InitReference.model_validate({name: getattr(image, name) for name in InitReference.model_fields})
