"""A job: its picture, what it was asked for, how it goes, what it left; and the page of how its picture came to be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from farm.bucket.job_log import AttemptLog
from farm.bucket.results import IMAGE, JobResult
from farm.errors import FarmError, InvalidInput
from farm.jobs.spec import JobSpec
from farm.jobs.status import JobStatus
from farm.jobs.wanted import DEFAULT_PRIORITY
from farm.pages.job import page as page_of
from farm.pages.settings import made, settings
from farm.web.bridge import in_time
from farm.web.held_up import why_waiting
from farm.web.pages import frame
from farm.web.pages.queue import foretold
from farm.web.parts import AT_ONCE_SECONDS, LOOKS, InSite, Parts
from farm.web.problems import Problem, Refused, of_status, told_by
from farm.web.v1.jobs import known
from farm.web.v1.made import result_of

router = APIRouter(include_in_schema=False)

_BUCKET_SECONDS = 3.0
"""The page comes without its result if the bucket takes longer."""
_INSIDE = {
    "Content-Security-Policy": "sandbox allow-scripts; frame-ancestors 'self'",
    "X-Frame-Options": "SAMEORIGIN",
}
"""Of a page that has a policy of its own within, and is shown in one of ours."""


@router.get("/jobs/{job}", dependencies=[LOOKS])
async def job(request: Request, site: InSite, job: str) -> Response:
    """Everything that is known of a job."""
    workers = await site.workers(within=AT_ONCE_SECONDS)
    ledger = site.client.ledger
    status = await site.ledger(ledger.get, known(job))
    spec = (await site.ledger(ledger.specs, [job])).get(job)
    [row], _ = await site.ledger(foretold, ledger, workers, [status])
    held_up = await why_waiting(site, [status.model] if status.state == "queued" else [])
    (result, trouble), logs = await asyncio.gather(_result(site, status), _logs(site, status))
    return frame.page(
        request.scope,
        "job.html",
        row=row,
        held_up=held_up.get(status.model),
        spec=spec,
        settings=settings(spec) if spec else [],
        made=made(result) if result else [],
        command=_command(site, spec, status) if spec else None,
        checkpoint=await site.ledger(ledger.checkpoint_of, job),
        result=result,
        has_picture=result is not None and IMAGE in result.objects,
        trouble=trouble,
        logs=logs,
    )


def _command(site: Parts, spec: JobSpec, status: JobStatus) -> str | None:
    """What asks for the same in a terminal, if `farm submit` does; files are named by what is in them."""
    if site.forms is None:
        return None
    files = {"init": spec.start.image, "mask": spec.start.mask}
    more = {name: f"{image.sha256[:8]}.{image.extension}" for name, image in files.items() if image}
    more |= {} if status.priority == DEFAULT_PRIORITY else {"priority": str(status.priority)}
    mode, values = site.forms.filled(spec, status.labels)
    try:
        return site.forms.command(mode, {**values, **more})
    except InvalidInput:  # a study, which is asked in another way
        return None


async def _result(site: Parts, status: JobStatus) -> tuple[JobResult | None, Problem | None]:
    """The result of a job that is done, or why it cannot be had now."""
    if status.result is None:
        return None, None
    try:
        return await in_time(site.bucket(site.client.result, status.id), _BUCKET_SECONDS), None
    except TimeoutError:
        return None, of_status(503, "the bucket does not answer")
    except (FarmError, Refused) as error:
        return None, told_by(error)[0]


async def _logs(site: Parts, status: JobStatus) -> Sequence[AttemptLog]:
    """What workers logged of a job that one has tried, as far as that can be had now."""
    if not status.attempt:
        return ()
    with contextlib.suppress(TimeoutError, FarmError, Refused):
        return await in_time(site.bucket(site.client.logs, status.id), _BUCKET_SECONDS)
    return ()


@router.get("/jobs/{job}/trace", dependencies=[LOOKS])
async def trace(site: InSite, job: str) -> Response:
    """How the picture came to be, as `farm trace` makes it. It is shown as of no origin, and so can ask for nothing."""

    result = await result_of(site, known(job))
    text, _ = await site.bucket(page_of, site.client.storage, result)
    return Response(text, headers=_INSIDE, media_type="text/html")
