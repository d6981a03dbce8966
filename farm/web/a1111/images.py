"""Pictures of a prompt, and of a prompt and a picture: the request waits until they are made."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from farm.web import waiting
from farm.web.a1111 import answer
from farm.web.a1111.asked import MOST_PICTURES, NAMES, ImageToImage, TextToImage
from farm.web.a1111.errors import errors
from farm.web.a1111.tasks import InTasks, Task, Tasks
from farm.web.access import Caller
from farm.web.document import body_of
from farm.web.parts import InSite, Parts, Submitting
from farm.web.reading import parsed
from farm.web.rendering import begun, done, drafted
from farm.web.served import served

router = APIRouter()

_PICTURES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The pictures in base64, and JSON in `info` that tells of them.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "images": {"type": "array", "items": {"type": "string"}},
                        "parameters": {"type": "object"},
                        "info": {"type": "string"},
                    },
                    "required": ["images", "parameters", "info"],
                }
            }
        },
    }
}
_ANSWERS = {**_PICTURES, **errors(504)}


@router.post("/txt2img", response_class=StreamingResponse, responses=_ANSWERS, openapi_extra=body_of(TextToImage))
async def txt2img(request: Request, site: InSite, caller: Submitting, tasks: InTasks) -> StreamingResponse:
    """Pictures of a prompt. A client that goes away cancels those that only it waited for."""
    asked = await parsed(TextToImage, request)
    asked.check()
    return await _answered(request, site, caller, tasks, asked, {})


@router.post("/img2img", response_class=StreamingResponse, responses=_ANSWERS, openapi_extra=body_of(ImageToImage))
async def img2img(request: Request, site: InSite, caller: Submitting, tasks: InTasks) -> StreamingResponse:
    """Pictures that begin with another, which comes along."""
    asked = await parsed(ImageToImage, request)
    asked.check()
    return await _answered(request, site, caller, tasks, asked, asked.files())


async def _answered(
    request: Request, site: Parts, caller: Caller, tasks: Tasks, asked: TextToImage, files: dict[str, bytes]
) -> StreamingResponse:
    options = asked.override_settings.over(tasks.options(caller.name), await served(site))
    drafts = await drafted(site, caller, asked.fields(options), files=files, most=MOST_PICTURES, names=NAMES)
    with site.usage.stream(caller.name), tasks.begun(caller.name, asked.force_task_id) as task:
        submission = await site.bucket(site.client.submit, drafts)
        task.jobs = submission.jobs
        pictures = await _waited(request, site, task)
    parts = answer.parts(site, asked, task, submission.specs, pictures)
    return StreamingResponse(await begun(parts), media_type="application/json")


async def _waited(request: Request, site: Parts, task: Task) -> list[str]:
    """The jobs of a task that are done, once all of them are over."""
    if task.interrupted:  # while it was being submitted
        await site.bucket(site.client.cancel, task.jobs)
    longest = site.usage.limits.wait_seconds
    statuses = await waiting.over(site, request, task.jobs, seconds=longest, gives_up=True, seen=task.follow)
    return await done(site, task.jobs, statuses)
