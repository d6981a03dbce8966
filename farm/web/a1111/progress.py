"""How far a caller's requests are, and stopping them: only ever the caller's own."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from farm.client import FarmClient
from farm.jobs.spec import MAX_STEPS
from farm.jobs.status import JobStatus
from farm.web.a1111.errors import errors
from farm.web.a1111.tasks import InTasks, Task
from farm.web.document import body_of
from farm.web.held_up import why_waiting
from farm.web.parts import InSite, Looking, Parts, Submitting
from farm.web.reading import parsed

router = APIRouter()
internal = APIRouter()

_LEAST = 0.01
"""What A1111 says of something that has not begun: nothing at all means that nothing goes on."""


class AboutTask(BaseModel):
    """The task that is asked for, by what was `force_task_id`, and the live preview that is known."""

    id_task: str
    id_live_preview: int = -1
    live_preview: bool = True


@router.get("/progress", responses=errors())
async def progress(site: InSite, caller: Looking, tasks: InTasks, skip_current_image: bool = False) -> dict[str, Any]:
    """How far all that goes on for the caller is, and how it looks; `state.job_count` is 0 when nothing does."""
    mine = tasks.of(caller.name)
    share, left = _share(mine)
    preview = None if skip_current_image else await _preview(site, mine)
    return {
        "progress": share,
        "eta_relative": left,
        "state": _state(mine),
        "current_image": preview.picture if preview else None,
        "textinfo": await _in_words(site, mine),
        "current_task": mine[0].name if mine else None,
    }


@router.post("/interrupt", responses=errors())
async def interrupt(site: InSite, caller: Submitting, tasks: InTasks) -> dict[str, Any]:
    """End all that goes on for the caller. Their requests are answered with the pictures that are done."""
    mine = tasks.of(caller.name)
    for task in mine:
        task.interrupted = True
    await _cancel(site, [job for task in mine for job in task.going_on])
    return {}


@router.post("/skip", responses=errors())
async def skip(site: InSite, caller: Submitting, tasks: InTasks) -> dict[str, Any]:
    """End the picture that each of the caller's requests is at, and go on with the next."""
    mine = tasks.of(caller.name)
    for task in mine:
        task.skipped = True
    await _cancel(site, [job for task in mine for job in task.going_on[:1]])
    return {}


@internal.post("/progress", responses=errors(), openapi_extra=body_of(AboutTask))
async def progress_of(request: Request, site: InSite, caller: Looking, tasks: InTasks) -> dict[str, Any]:
    """How far one request is, by the `force_task_id` that it came with."""
    asked = await parsed(AboutTask, request)
    mine = [task for task in tasks.of(caller.name) if task.name == asked.id_task]
    share, left = _share(mine)
    preview = await _preview(site, mine) if asked.live_preview else None
    is_new = preview is not None and preview.number != asked.id_live_preview
    has_begun = _has_begun(mine)
    return {
        "active": bool(mine) and has_begun,
        "queued": bool(mine) and not has_begun,
        "completed": not mine,
        "progress": share if mine else None,
        "eta": left if mine else None,
        "live_preview": f"data:image/png;base64,{preview.picture}" if preview and is_new else None,
        "id_live_preview": preview.number if preview else asked.id_live_preview,
        "textinfo": await _in_words(site, mine),
    }


async def _cancel(site: Parts, jobs: Sequence[str]) -> None:
    if jobs:
        await site.bucket(site.client.cancel, jobs)


def _statuses(tasks: Iterable[Task]) -> list[JobStatus | None]:
    return [status for task in tasks for status in task.statuses]


def _has_begun(tasks: Iterable[Task]) -> bool:
    return any(status and status.started for status in _statuses(tasks))


async def _in_words(site: Parts, tasks: Sequence[Task]) -> str | None:
    """What A1111 says of a request that has not begun, or why it will not soon."""
    if not tasks or _has_begun(tasks):
        return None
    models = {status.model for status in _statuses(tasks) if status and status.state == "queued"}
    return next(iter((await why_waiting(site, models)).values()), "Waiting...")


def _share(tasks: Sequence[Task]) -> tuple[float, float]:
    """How much of what goes on is done, 0 to 1, and in how many seconds the rest may be."""
    if not tasks:
        return 0.0, 0.0
    statuses = _statuses(tasks)
    shares = [0.0 if status is None else 1.0 if status.is_over else status.step / status.steps for status in statuses]
    share = min(max(sum(shares) / len(shares) if shares else 0.0, _LEAST), 1.0)
    taken = time.monotonic() - min(task.began for task in tasks)
    return share, taken / share - taken


def _state(tasks: Sequence[Task]) -> dict[str, Any]:
    statuses = _statuses(tasks)
    at = next((status for status in statuses if status and status.state == "running"), None)
    return {
        "skipped": any(task.skipped for task in tasks),
        "interrupted": any(task.interrupted for task in tasks),
        "stopping_generation": False,
        "job": tasks[0].name if tasks else "",
        "job_count": max(len(statuses), len(tasks)),
        "job_timestamp": tasks[0].stamp if tasks else "0",
        "job_no": sum(status is not None and status.is_over for status in statuses),
        "sampling_step": at.step if at else 0,
        "sampling_steps": at.steps if at else 0,
    }


@dataclass(frozen=True)
class _Seen:
    """A preview at the size that the picture will have, as base64 of a PNG, and what tells it from those before."""

    number: int
    picture: str


async def _preview(site: Parts, tasks: Sequence[Task]) -> _Seen | None:
    """How the first picture that is being rendered looks. Asking is what makes its worker show it."""
    for place, status in enumerate(_statuses(tasks)):
        if status and status.state == "running":
            return await site.bucket(_seen, site.client, status.id, place)
    return None


def _seen(client: FarmClient, job: str, place: int) -> _Seen | None:
    preview = client.previews([job]).get(job)
    if preview is None:
        return None
    file = io.BytesIO()
    preview.enlarged().save(file, "PNG", compress_level=1)
    return _Seen(place * (MAX_STEPS + 1) + preview.step, base64.b64encode(file.getvalue()).decode())
