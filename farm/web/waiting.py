"""Waiting for jobs, without a thread; who goes away cancels what only they waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from fastapi import Request

from farm.errors import FarmError
from farm.jobs.status import JobStatus
from farm.web.hub import Follower
from farm.web.parts import Parts
from farm.web.problems import Refused


async def over(
    site: Parts,
    request: Request,
    jobs: Sequence[str],
    *,
    seconds: float,
    kept: bool = False,
    gives_up: bool = False,
    seen: Callable[[Follower], None] = lambda _: None,
) -> Sequence[JobStatus]:
    """The statuses of jobs once all of them are over, or as they are after so many `seconds`.

    If the client goes away before, those of them that nobody else follows are cancelled, unless they are to be `kept`;
    and if it `gives_up`, also when the time is up. `seen` is given the follower, which knows how far they are.
    They are submitted, so nothing that goes wrong in waiting is told as an error: then there are fewer statuses.
    """
    try:
        follower = await site.hub.follow(jobs)
    except (FarmError, Refused):
        return []
    seen(follower)
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
        is_gone = gone.done() and not gone.cancelled()
        leave(site, follower, cancelling=not kept and (is_gone or gives_up))
    return [status for status in (follower.latest or {}).values() if status]


def leave(site: Parts, follower: Follower, *, cancelling: bool) -> None:
    """Follow no more. What goes on and nobody else follows is cancelled if it is to be, unless it is the server that
    ends: that costs nobody a job."""
    alone = site.hub.leave(follower)
    if cancelling and alone and not follower.closed:
        site.afterwards(asyncio.ensure_future(_cancel(site, alone)))


async def _gone(request: Request) -> None:
    """Comes back when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _cancel(site: Parts, jobs: Sequence[str]) -> None:
    with contextlib.suppress(FarmError):  # nobody is left to tell; they are rendered, as any other
        await site.bucket(site.client.cancel, jobs)
