"""Waiting for jobs, without a thread; who goes away cancels what only they waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from fastapi import Request

from farm.errors import FarmError
from farm.jobs.status import JobStatus
from farm.web.parts import Parts
from farm.web.problems import Refused


async def over(
    site: Parts, request: Request, jobs: Sequence[str], *, seconds: float, kept: bool
) -> Sequence[JobStatus]:
    """The statuses of jobs once all of them are over, or as they are after so many `seconds`.

    If the client goes away before, those of them that nobody else follows are cancelled, unless they are to be `kept`.
    They are submitted, so nothing that goes wrong in waiting is told as an error: then there are fewer statuses.
    """
    try:
        follower = await site.hub.follow(jobs)
    except (FarmError, Refused):
        return []
    ends = asyncio.get_running_loop().time() + seconds
    gone = asyncio.ensure_future(_gone(request))
    try:
        while not follower.is_over and not follower.closed and not gone.done():
            left = ends - asyncio.get_running_loop().time()
            if left <= 0:
                break
            news = asyncio.ensure_future(follower.news(within=left))
            await asyncio.wait({news, gone}, return_when=asyncio.FIRST_COMPLETED)
            news.cancel()
            await asyncio.gather(news, return_exceptions=True)
    finally:
        gone.cancel()
        alone = site.hub.leave(follower)
        if gone.done() and not gone.cancelled() and alone and not kept:
            site.afterwards(asyncio.ensure_future(_cancel(site, alone)))
    return [status for status in (follower.latest or {}).values() if status]


async def _gone(request: Request) -> None:
    """Comes back when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _cancel(site: Parts, jobs: Sequence[str]) -> None:
    with contextlib.suppress(FarmError):  # nobody is left to tell; they are rendered, as any other
        await site.bucket(site.client.cancel, jobs)
