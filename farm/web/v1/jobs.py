"""Jobs: submitted, listed, looked up, cancelled, moved within the queue and queued again."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from contextlib import nullcontext
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response

from farm import keys
from farm.client.client import Submission
from farm.client.rerun import submit_again
from farm.errors import InvalidInput, JobNotFound, LedgerUnavailable
from farm.jobs.status import JobStatus, State
from farm.ledger.records import Position
from farm.web import waiting
from farm.web.access import Caller
from farm.web.parts import LOOKS, SUBMITS, InSite, Parts, Submitting
from farm.web.problems import Refused, later
from farm.web.v1 import submission
from farm.web.v1.shapes import (
    EXAMPLE,
    Again,
    Cancelled,
    Named,
    Page,
    Prioritised,
    Ranked,
    Submitted,
    ToCancel,
    ToPrioritise,
    problems,
)

router = APIRouter(tags=["Jobs"])

IDEMPOTENCY_SECONDS = 24 * 3600.0
_SUBMITTING_SECONDS = 60.0
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_CURSOR = re.compile(r"[A-Za-z0-9_-]{1,100}")

Limit = Annotated[int, Query(ge=1, le=1_000, description="Jobs on a page.")]
Cursor = Annotated[str | None, Query(max_length=100, description="`next` of the page before.")]

_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"$ref": "#/components/schemas/Submission"},
            "examples": {"four pictures": {"value": {"requests": [EXAMPLE]}}},
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"submission": {"$ref": "#/components/schemas/Submission"}},
                "required": ["submission"],
                "additionalProperties": {"type": "string", "contentMediaType": "application/octet-stream"},
            },
            "encoding": {"submission": {"contentType": "application/json"}},
        },
    },
}


@router.post(
    "/jobs",
    status_code=201,
    response_model=Submitted,
    responses={200: {"model": Submitted}, 202: {"model": Submitted}, **problems(404, 408, 409)},
    openapi_extra={"requestBody": _BODY},
)
async def submit(
    request: Request,
    response: Response,
    site: InSite,
    caller: Submitting,
    wait: Annotated[bool, Query(description="Answer when all jobs are over: 200; or 202 once `seconds` are.")] = False,
    seconds: Annotated[float, Query(ge=0, le=600, description="The longest to wait.")] = 600.0,
    idempotency_key: Annotated[
        str | None, Header(description="Of your own: sent again with it within a day, a submission is the same one.")
    ] = None,
) -> Submitted:
    """Submit requests or specs as one batch. Everything is checked before anything is queued.

    With `wait`, a client that goes away cancels what only it waited for; unless it sent an `Idempotency-Key`, with
    which it can come back for it.
    """
    what = await submission.sent(request)

    def charge(number: int) -> None:
        site.usage.pixels(caller.name, number)

    asked = await site.bucket(submission.drafts, what, most=site.usage.limits.jobs, charge=charge)
    batch = None if idempotency_key is None else await _batch(site, caller, idempotency_key, asked)
    # Who may not wait is told so before anything is submitted.
    waits = site.usage.stream(caller.name) if wait else nullcontext()
    with waits:
        done = await _submitted(site, batch, asked)
        response.headers["Location"] = f"/api/v1/batches/{done.batch}"
        told = Submitted(batch=done.batch, jobs=[*done.jobs], specs=[*done.specs], warnings=[*done.warnings])
        if not wait:
            return told
        longest = min(seconds, site.usage.limits.wait_seconds)
        statuses = await waiting.over(site, request, told.jobs, seconds=longest, kept=batch is not None)
    is_over = len(statuses) == len(told.jobs) and all(status.is_over for status in statuses)
    response.status_code = 200 if is_over else 202
    return told.model_copy(update={"statuses": [*statuses]})


async def _batch(site: Parts, caller: Caller, key: str, asked: Any) -> str:
    """The batch that goes by a caller's key: a new one, or the one that it named before."""
    if not _KEY.fullmatch(key):
        raise InvalidInput("is not 1 to 200 printable characters without spaces", field="Idempotency-Key")
    name = hashlib.sha256(f"{caller.name}\0{key}".encode()).hexdigest()
    wanted = [keys.new_batch_id(), submission.fingerprint(asked)]
    told = await site.ledger(
        site.client.ledger.once, f"submission:{name}", json.dumps(wanted), seconds=IDEMPOTENCY_SECONDS
    )
    batch, fingerprint = _noted(told)
    if fingerprint != wanted[1]:
        raise Refused(
            422, "idempotency-key-reused", "this key came with another submission before", field="Idempotency-Key"
        )
    return batch


def _noted(text: str) -> tuple[str, str]:
    """The batch and the fingerprint that a key was given. Raises `LedgerUnavailable` for what a stranger wrote."""
    try:
        batch, fingerprint = json.loads(text)
        return keys.batch_id(batch), str(fingerprint)
    except (ValueError, TypeError, InvalidInput, RecursionError):
        raise LedgerUnavailable(
            "what the ledger keeps of this idempotency key is damaged", hint="see whether its jobs are there"
        ) from None


async def _submitted(site: Parts, batch: str | None, asked: Any) -> Submission:
    """Submit; of one batch, once at a time, for two would draw different seeds for it."""
    if batch is None:
        return await site.bucket(site.client.submit, asked)
    held = await site.ledger(site.client.ledger.try_lock, f"submit:{batch}", site.id, seconds=_SUBMITTING_SECONDS)
    if not held or batch in site.under_way:
        raise later(409, "submission-under-way", "the same submission is being made at this moment", 1)
    site.under_way.add(batch)
    submitting = asyncio.ensure_future(site.bucket(site.client.submit, asked, batch=batch))
    submitting.add_done_callback(lambda _: site.under_way.discard(batch))
    return await asyncio.shield(submitting)


@router.get("/jobs", dependencies=[LOOKS], responses=problems())
async def list_jobs(site: InSite, state: State | None = None, limit: Limit = 50, cursor: Cursor = None) -> Page:
    """The newest jobs first, of one state or all."""
    position = None if cursor is None else position_of(cursor)

    def read() -> Page:
        jobs, following = site.client.ledger.after(position, state=state, limit=limit)
        return Page(jobs=site.client.ledger.get_many(jobs), next=cursor_of(following) if following else None)

    return await site.ledger(read)


@router.get("/jobs/{job}", dependencies=[LOOKS], responses=problems(404))
async def status(site: InSite, job: str) -> JobStatus:
    """One job as it is now."""
    return await site.ledger(site.client.ledger.get, known(job))


@router.get("/batches/{batch}", dependencies=[LOOKS], responses=problems(404))
async def batch(
    site: InSite,
    batch: str,
    limit: Limit = 1_000,
    cursor: Annotated[str | None, Query(max_length=100, pattern=r"^[0-9]{1,6}$")] = None,
) -> Page:
    """The jobs of a batch in their order, by its id or a unique beginning of it."""
    first = int(cursor or 0)

    def read() -> Page:
        jobs = site.client.ledger.resolve(batch)
        more = first + limit < len(jobs)
        return Page(
            jobs=site.client.ledger.get_many(jobs[first : first + limit]), next=str(first + limit) if more else None
        )

    return await site.ledger(read)


@router.post("/cancel", responses=problems(404))
async def cancel(site: InSite, caller: Submitting, what: ToCancel) -> Cancelled:
    """Cancel queued and running jobs; a running one stops at its next step."""
    if what.all == bool(what.names):
        raise InvalidInput("name the jobs or batches to cancel, or say all")
    if what.all:
        if not caller.may("operate"):
            raise Refused(403, "role-too-small", "to cancel everything takes the role 'operate'")
        return Cancelled(before=await site.bucket(site.client.cancel_all))
    return Cancelled(before=await site.bucket(site.client.cancel, what.names or ()))


@router.post("/jobs/priority", dependencies=[SUBMITS], responses=problems(404))
async def prioritise(site: InSite, what: ToPrioritise) -> Prioritised:
    """Give queued jobs another priority; those that are not queued are told as they are."""
    told = await site.ledger(site.client.prioritise, what.names, what.priority, by=what.by)
    return Prioritised(jobs={job: Ranked.model_validate(one) for job, one in told.items()})


@router.post("/retry", dependencies=[SUBMITS], responses=problems(404, 409))
async def retry(site: InSite, what: Named) -> Again:
    """Queue failed and cancelled jobs again; of a batch, only those. None if the farm keeps a LoRA of one no longer."""
    bridge = site.bucket if await site.ledger(site.client.asks_the_bucket, what.names) else site.ledger
    return Again(jobs=[*await bridge(site.client.retry, what.names)])


@router.post("/jobs/{job}/again", status_code=201, dependencies=[SUBMITS], responses=problems(404))
async def again(site: InSite, job: str) -> Submitted:
    """Render what a job renders once more, as a new job; its init picture is the bucket's."""
    done = await site.bucket(submit_again, site.client, known(job))
    return Submitted(batch=done.batch, jobs=[*done.jobs], specs=[*done.specs], warnings=[*done.warnings])


def known(job: str) -> str:
    """The job's id. Raises `JobNotFound` for what cannot be one."""
    if not keys.is_job_id(job):
        raise JobNotFound(f"there is no job {job!r:.60}", hint="GET /api/v1/jobs lists them")
    return job


def cursor_of(position: Position) -> str:
    """What a client sends to go on from a place."""
    return base64.urlsafe_b64encode(f"{position.score}.{position.job}".encode()).decode().rstrip("=")


def position_of(cursor: str) -> Position:
    """The place that a cursor of ours means. Raises `InvalidInput` for any other text."""
    try:
        if not _CURSOR.fullmatch(cursor):
            raise ValueError
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        score, _, job = text.partition(".")
        if not re.fullmatch(r"[0-9]{1,15}", score):
            raise ValueError
        return Position(keys.job_id(job), int(score))
    except (ValueError, InvalidInput):
        raise InvalidInput("is none that this site gave", field="cursor", hint="begin without one") from None
