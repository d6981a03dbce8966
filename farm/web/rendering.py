"""One request of another program, from its fields to its pictures: what the APIs of such programs have in common.

It is drafted, submitted and waited for as `/api/v1` does it: all of it is checked before anything is queued, no thread
waits for it, and who goes away cancels what only they waited for.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from farm.bucket.fetch import read
from farm.bucket.results import JobResult
from farm.client import FarmClient
from farm.client.planning import Draft
from farm.errors import InvalidInput
from farm.jobs.status import JobStatus
from farm.web.access import Caller
from farm.web.held_up import why_waiting
from farm.web.parts import Parts
from farm.web.problems import Refused
from farm.web.v1.submission import Sent, drafts

T = TypeVar("T")

_ENTRY = "requests.0"
_NOT_AGAIN = {"x-should-retry": "false"}
"""Clients of OpenAI's would ask again by themselves for what has failed, and would fail again."""


@dataclass(frozen=True)
class Made:
    """A picture that was made: what its result says, and its PNG file."""

    result: JobResult
    png: bytes


async def drafted(
    site: Parts,
    caller: Caller,
    fields: Mapping[str, Any],
    *,
    files: Mapping[str, bytes],
    most: int,
    names: Mapping[str, str],
) -> list[Draft]:
    """The request that these fields of a `JobRequest` make, checked, with up to `most` jobs.

    A picture is `{"upload": NAME}` of one of the files. `names` says what the other program calls fields.
    Raises `InvalidInput` naming the field as that program does, and `Refused` for too many pixels.
    """

    def charge(number: int) -> None:
        site.usage.pixels(caller.name, number)

    asked = Sent(json.dumps({"requests": [fields]}).encode(), files)
    try:
        return await site.bucket(drafts, asked, most=most, charge=charge)
    except InvalidInput as error:
        field = (error.field or "").removeprefix(_ENTRY).removeprefix(".")
        raise InvalidInput(error.reason, field=names.get(field, field) or None, hint=error.hint) from error


async def done(site: Parts, jobs: Sequence[str], statuses: Sequence[JobStatus], *, whole: bool = False) -> list[str]:
    """Those of the jobs that were waited for and are done, in their order; others were cancelled.

    Raises `Refused` if one failed or is not over, or if none may be missing (`whole`) and one was cancelled.
    """
    known = {status.id: status for status in statuses}
    for job in jobs:
        if fault := await fault_of(site, job, known.get(job), whole=whole):
            raise fault
    return [job for job in jobs if known[job].state == "done"]


async def fault_of(site: Parts, job: str, status: JobStatus | None, *, whole: bool) -> Refused | None:
    """Why there is no picture of a job that is not waited for any longer, if there is to be one."""
    if status is None or not status.is_over:
        detail = f"job {job} was not rendered in time; it is not waited for any longer"
        waited = [status.model] if status and status.state == "queued" else []
        why = (await why_waiting(site, waited)).get(waited[0]) if waited else None
        return Refused(504, "not-in-time", detail, hint=why, headers=_NOT_AGAIN)
    if status.state == "failed":
        reason = status.error.message if status.error else "for a reason that nobody wrote down"
        return Refused(500, "not-rendered", f"job {job} failed: {reason}", headers=_NOT_AGAIN)
    if whole and status.state == "cancelled":
        return Refused(500, "cancelled", f"job {job} was cancelled", headers=_NOT_AGAIN)
    return None


async def made(site: Parts, job: str) -> Made:
    """The picture of a job that is done, checked by its SHA-256. Raises what `FarmClient.result` and `read` do."""
    return await site.bucket(_made, site.client, job)


def _made(client: FarmClient, job: str) -> Made:
    result = client.result(job)
    return Made(result, read(client.storage, result.picture))


async def begun(parts: AsyncIterator[T]) -> AsyncIterator[T]:
    """The same, of which the first has been made: what goes wrong with it is told before an answer begins."""
    first = await anext(parts)

    async def whole() -> AsyncIterator[T]:
        yield first
        async for part in parts:
            yield part

    return whole()
