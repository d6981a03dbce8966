"""Events: what happens to jobs, as it happens, as server-sent events."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from farm.errors import InvalidInput
from farm.web.access import Caller
from farm.web.hub import Follower, News
from farm.web.parts import InSite, Looking, Parts
from farm.web.problems import of_error
from farm.web.v1.shapes import problems

router = APIRouter(tags=["Events"])

_CURSOR = re.compile(r"([0-9]{1,15})-([0-9]{1,15})")
_SILENCE_SECONDS = 15.0
"""After so long without news a line says that the stream still stands, and whether its caller may still see it."""
_MOST_JOBS = 10_000


class EventStream(StreamingResponse):
    """A stream of events; `ended` is called when it is over, however it ends."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[str], ended: Callable[[], None]) -> None:
        super().__init__(content, headers={"X-Accel-Buffering": "no"})
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`status` has a job's status as JSON; `reset` says to read the list again, `end` that all jobs "
        "are over, `problem` that the farm cannot be asked for now.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.get("/events", status_code=200, response_class=EventStream, responses={**problems(404), **_EVENTS})
async def events(
    site: InSite,
    caller: Looking,
    name: Annotated[
        list[Annotated[str, Query(max_length=100)]] | None,
        Query(max_length=100, description="Jobs or batches to follow until all are over; without, the whole farm."),
    ] = None,
    last_event_id: Annotated[
        str | None, Header(max_length=40, description="The last id that was seen; browsers send it by themselves.")
    ] = None,
) -> EventStream:
    """Follow jobs: first what they are now, or what changed since `Last-Event-ID`; then every change."""
    if last_event_id is not None and not _CURSOR.fullmatch(last_event_id):
        raise InvalidInput("is none that this site gave", field="Last-Event-ID", hint="begin without one")
    held = ExitStack()
    held.enter_context(site.usage.stream(caller.name))
    try:
        jobs = await site.ledger(site.client.resolve, name) if name else None
        if jobs and len(jobs) > _MOST_JOBS:
            raise InvalidInput(f"{len(jobs):,} jobs are more than {_MOST_JOBS:,}", field="name")
        follower = await site.hub.follow(jobs, since=last_event_id)
    except BaseException:
        held.close()
        raise
    held.callback(site.hub.leave, follower)
    return EventStream(_lines(site, caller, follower), held.close)


async def _lines(site: Parts, caller: Caller, follower: Follower) -> AsyncIterator[str]:
    yield "retry: 2000\n\n"
    while True:
        news = await follower.news(within=0 if follower.is_over else _SILENCE_SECONDS)
        if not site.access.still(caller):
            return
        if news:
            yield _written(news)
        elif follower.is_over:
            yield "event: end\ndata: {}\n\n"
            return
        elif follower.closed:
            return
        else:
            yield ": still here\n\n"


def _written(news: News) -> str:
    """The news as events; the last has the id, so that a connection that breaks in between misses nothing."""
    events = [f"event: status\ndata: {told.data}" for told in news.told]
    if news.reset:
        events.append("event: reset\ndata: {}")
    if events:
        events[-1] = f"id: {news.cursor}\n{events[-1]}"
    if news.trouble:
        events.append(f"event: problem\ndata: {of_error(news.trouble).model_dump_json()}")
    return "".join(f"{event}\n\n" for event in events)
