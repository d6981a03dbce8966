"""Pictures as a stream of events: how the first of them looks meanwhile, and each one when it is done."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from farm.bucket.preview import Preview
from farm.client import FarmClient
from farm.client.planning import Draft
from farm.errors import FarmError
from farm.jobs.status import JobStatus
from farm.web import waiting
from farm.web.access import Caller
from farm.web.hub import Follower
from farm.web.openai.asked import Generation
from farm.web.openai.encoding import Encoding
from farm.web.openai.errors import error
from farm.web.parts import Parts
from farm.web.problems import Problem, Refused, of_error
from farm.web.rendering import fault_of, made
from farm.web.v1.events import EventStream

_LOOK_SECONDS = 0.3
_SILENCE_SECONDS = 15.0
_NO_TOKENS = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
_USAGE = {**_NO_TOKENS, "input_tokens_details": {"image_tokens": 0, "text_tokens": 0}}
"""Clients expect some; the farm counts none."""


async def stream(site: Parts, caller: Caller, asked: Generation, drafts: Sequence[Draft], *, kind: str) -> EventStream:
    """Submit, and tell of it as events whose names begin with `kind`. Who goes away cancels what only they followed.

    Raises what submitting does; from then on what goes wrong is an event.
    """
    held = ExitStack()
    held.enter_context(site.usage.stream(caller.name))
    try:
        submission = await site.bucket(site.client.submit, drafts)
        follower = await site.hub.follow(submission.jobs)
    except BaseException:
        held.close()
        raise
    held.callback(waiting.leave, site, follower, cancelling=True)
    return EventStream(_Telling(site, caller, asked, follower, submission.jobs, kind).lines(), held.close)


class _Telling:
    """What is told of some jobs. Partial pictures are of the first one that runs, and spread over its steps."""

    def __init__(
        self, site: Parts, caller: Caller, asked: Generation, follower: Follower, jobs: Sequence[str], kind: str
    ) -> None:
        self._site, self._caller, self._asked, self._kind = site, caller, asked, kind
        self._follower, self._left = follower, [*jobs]
        self._sent, self._moment, self._look = 0, (0, 0), 0.0

    async def lines(self) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._site.usage.limits.wait_seconds
        while self._left and not self._follower.closed and self._site.access.still(self._caller):
            wait = _LOOK_SECONDS if self._sent < self._asked.partial_images else _SILENCE_SECONDS
            began = loop.time()
            news = None if self._next_over() else await self._follower.news(within=min(wait, max(0.0, ends - began)))
            while job := self._next_over(given_up=loop.time() >= ends):
                self._left.remove(job)
                fault, line = await self._ended(job)
                yield line
                if fault:
                    return
            if news is None and wait == _SILENCE_SECONDS:
                yield ": still here\n\n"
            if loop.time() >= self._look and (partial := await self._partial()):
                yield partial

    def _status(self, job: str) -> JobStatus | None:
        return (self._follower.latest or {}).get(job)

    def _next_over(self, *, given_up: bool = False) -> str | None:
        """A job of which nothing more is to be heard: it is over, has no record any more, or is not waited for."""
        known = self._follower.latest or {}
        for job in self._left:
            status = self._status(job)
            if given_up or job not in known or (status and status.is_over):
                return job
        return None

    async def _ended(self, job: str) -> tuple[bool, str]:
        """Whether it ended badly, and the event that says so or has the picture."""
        if refused := await fault_of(self._site, job, self._status(job), whole=True):
            return True, _error(refused.problem)
        try:
            picture = await made(self._site, job)
            file = await self._site.bucket(self._asked.encoding.of_png, picture.png)
        except FarmError as trouble:
            return True, _error(of_error(trouble))
        except Refused as trouble:
            return True, _error(trouble.problem)
        spec = picture.result.spec
        return False, self._event("completed", file, (spec.width, spec.height), usage=_USAGE)

    async def _partial(self) -> str | None:
        """How the first job that runs looks, once it is far enough on for the next of the partial pictures."""
        if self._sent >= self._asked.partial_images:
            return None
        self._look = asyncio.get_running_loop().time() + _LOOK_SECONDS
        running = next((job for job in self._left if (s := self._status(job)) and s.state == "running"), None)
        status = self._status(running) if running else None
        if running is None or status is None:
            return None
        seen: tuple[Preview, bytes] | None = None
        with contextlib.suppress(FarmError, Refused):  # without a preview there is still the picture
            seen = await self._site.bucket(_seen, self._site.client, running, self._moment, self._asked.encoding)
        due = status.steps * (self._sent + 1) / (self._asked.partial_images + 1)
        if seen is None or seen[0].step < due:
            return None
        preview, file = seen
        self._moment = preview.moment
        self._sent += 1
        return self._event("partial_image", file, preview.size, partial_image_index=self._sent - 1)

    def _event(self, name: str, file: bytes, size: tuple[Any, Any], **more: Any) -> str:
        quality = {"standard": "auto", "hd": "high"}.get(self._asked.quality, self._asked.quality)
        told: Mapping[str, Any] = {
            "type": f"{self._kind}.{name}",
            "b64_json": base64.b64encode(file).decode(),
            "created_at": int(time.time()),
            "size": f"{size[0]}x{size[1]}",
            "quality": quality,
            "background": "opaque",
            "output_format": self._asked.encoding.format,
            **more,
        }
        return f"event: {told['type']}\ndata: {json.dumps(told)}\n\n"


def _seen(client: FarmClient, job: str, before: tuple[int, int], encoding: Encoding) -> tuple[Preview, bytes] | None:
    """A preview that is newer than the one before, and the file of it at the size that the picture will have."""
    preview = client.previews([job]).get(job)
    if preview is None or preview.moment <= before:
        return None
    return preview, encoding.of(preview.enlarged())


def _error(told: Problem) -> str:
    return f"event: error\ndata: {json.dumps({'type': 'error', **error(told)})}\n\n"
