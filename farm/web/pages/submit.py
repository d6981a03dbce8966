"""Submitting: a form of what `farm submit` takes, which says at once what is wrong and which command does the same."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from farm.client.planning import default_model, known_losses
from farm.errors import InvalidInput, LedgerUnavailable, StorageError, WrongBucket
from farm.jobs.status import WorkerInfo
from farm.web import forms
from farm.web.index.entry import Entry
from farm.web.pages import frame
from farm.web.parts import SUBMITS, InSite, Parts
from farm.web.problems import Refused, of_error
from farm.web.v1.jobs import known
from farm.web.v1.made import result_of

router = APIRouter(include_in_schema=False)

_WITHIN_SECONDS = 0.3
"""The form does not wait longer to hear of the workers."""


class Filled(BaseModel):
    """What is filled in, and whether the requests are wanted for it."""

    model_config = ConfigDict(extra="forbid")

    mode: Annotated[str, Field(max_length=40)]
    values: dict[str, bool | str | list[str]]
    whole: bool = False


@dataclass(frozen=True)
class Shown:
    """A field on the page, the modes that have it there, and what it is filled with."""

    field: forms.Field
    modes: list[str]
    value: str | bool | Sequence[str] | None


@router.get("/submit", dependencies=[SUBMITS])
async def submit(
    request: Request,
    site: InSite,
    again: Annotated[str | None, Query(max_length=60)] = None,
    start: Annotated[str | None, Query(max_length=60)] = None,
) -> Response:
    """The form: empty, with the settings of a job (`again`), or with the picture of one to `start` from."""
    mode, values, pictures = "txt2img", dict[str, Any](), dict[str, str]()
    if job := again or start:
        result = await result_of(site, known(job))
        mode, found = _forms(site).filled(result.spec, await _labels(site, job))
        values = {**found}
        given = {"init": result.spec.start.image, "mask": result.spec.start.mask}
        pictures = {name: f"/api/v1/jobs/{job}/{name}" for name, image in given.items() if image}
    if start:
        kept = {name: value for name, value in values.items() if name in ("prompt", "negative", "model")}
        mode, values = "img2img", kept
        pictures = {"init": f"/api/v1/jobs/{start}/objects/image.png?delivery=stream"}
    known_modes = await _modes(site)
    return frame.page(
        request.scope,
        "submit.html",
        modes=known_modes,
        mode=mode,
        groups=_groups(known_modes, values),
        pictures=pictures,
        source=job,
    )


@router.post("/submit/read", dependencies=[SUBMITS])
async def read(site: InSite, filled: Filled) -> dict[str, Any]:
    """What is filled in, as a command line; what is wrong with it; and if it is wanted `whole`, requests of the API."""
    losses = known_losses(await site.workers(within=_WITHIN_SECONDS) or ())
    form, most = _forms(site), site.usage.limits.jobs
    command = form.command(filled.mode, filled.values)
    try:
        told = await site.ledger(form.read, filled.mode, filled.values, losses=losses, most=most)
    except InvalidInput as error:
        return {"command": command, "problem": of_error(error).model_dump()}
    return {"command": command, "jobs": told.jobs, "requests": told.requests if filled.whole else ()}


def _forms(site: Parts) -> forms.Forms:
    if site.forms is None:
        raise Refused(503, "no-forms", "this site has no forms to fill in", hint="'farm web' has")
    return site.forms


async def _labels(site: Parts, job: str) -> dict[str, str]:
    """The labels of a job, but not those by which a grid knows its places."""
    statuses = await site.ledger(site.client.ledger.get_many, [job])
    found: Entry | None = None
    if not statuses and site.index:
        found = await site.searches(site.index.entry, job)
    labels = statuses[0].labels if statuses else found.labels if found else {}
    return {name: value for name, value in labels.items() if not name.startswith("grid.")}


async def _modes(site: Parts) -> list[forms.Mode]:
    """The modes with what this farm has: the models that are served or kept, and the losses that its workers know."""
    workers: Sequence[WorkerInfo] = ()
    kept: Collection[str] = ()
    with contextlib.suppress(LedgerUnavailable):  # the page says so itself
        workers = await site.workers(within=_WITHIN_SECONDS) or ()
    with contextlib.suppress(LedgerUnavailable, StorageError, WrongBucket, Refused):
        kept = await site.kept_models(within=_WITHIN_SECONDS) or ()
    served = {model for worker in workers for model in worker.models}
    offered = {
        "model": tuple(
            forms.Choice(model, "" if model in served else "no live worker serves it")
            for model in sorted(served.union(kept))
        ),
        "loss": tuple(forms.Choice(loss.name, loss.help) for loss in known_losses(workers)),
    }

    def of_farm(field: forms.Field) -> forms.Field:
        usual = default_model(workers) if field.name == "model" else field.usual
        return replace(field, usual=usual, choices=offered.get(field.name) or field.choices)

    return [
        replace(mode, groups=[replace(group, fields=[*map(of_farm, group.fields)]) for group in mode.groups])
        for mode in _forms(site).modes
    ]


def _groups(modes: list[forms.Mode], values: forms.Values) -> list[tuple[str, list[Shown]]]:
    """The fields of all modes, by group and as late as in any of them. One that modes have in other groups or words is
    there for each of these."""
    groups: dict[str, dict[forms.Field, dict[str, int]]] = {}
    for mode in modes:
        for group in mode.groups:
            for place, field in enumerate(group.fields):
                groups.setdefault(group.title, {}).setdefault(field, {})[mode.name] = place
    return [
        (
            title,
            [
                Shown(field, [*places], values.get(field.name))
                for field, places in sorted(found.items(), key=lambda one: max(one[1].values()))
            ],
        )
        for title, found in groups.items()
    ]
