"""A connection to a site that is looked at while it is open, and that its client can close: httpx waits for its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Message

from tests.farm.web.conftest import Web

SECONDS = 30


class Connection:
    """One request that goes on: `status` once it is answered, and the events that come."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self.gone = asyncio.Event()
        self._text = ""

    async def status(self) -> int:
        message = await asyncio.wait_for(self.sent.get(), SECONDS)
        assert message["type"] == "http.response.start"
        return int(message["status"])

    async def event(self) -> dict[str, str]:
        """The next event of the stream; {} at its end. Comments are passed over."""
        while True:
            while "\n\n" not in self._text:
                message = await asyncio.wait_for(self.sent.get(), SECONDS)
                self._text += message.get("body", b"").decode()
                if not message.get("more_body"):
                    return {}
            block, _, self._text = self._text.partition("\n\n")
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if "event" in fields:
                return fields

    async def json(self) -> Any:
        """All of the answer, when it has come."""
        text = ""
        while True:
            message = await asyncio.wait_for(self.sent.get(), SECONDS)
            text += message.get("body", b"").decode()
            if not message.get("more_body"):
                return json.loads(text)

    async def states(self, *, until: str) -> list[str]:
        """The states that are told of, up to this one."""
        told: list[str] = []
        while until not in told:
            told.append(json.loads((await self.event())["data"])["state"])
        return told


def bearer(web: Web, role: Any = "view") -> dict[str, str]:
    return {"authorization": f"Bearer {web.tokens.add(f'{role}-{len(web.tokens.all())}', role)}"}


async def happens(condition: Callable[[], object], what: str) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.02)
    assert condition(), what


@asynccontextmanager
async def connected(
    app: ASGIApp, path: str, *, method: str = "GET", headers: Mapping[str, str], body: bytes = b"", query: str = ""
) -> AsyncIterator[Connection]:
    """Open a connection, which is closed at the end."""
    made = Connection()
    all_headers = {"host": "127.0.0.1:8170", "content-length": str(len(body)), **headers}
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in all_headers.items()],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8170),
    }
    given = False

    async def receive() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        await made.gone.wait()
        return {"type": "http.disconnect"}

    asking: asyncio.Future[None] = asyncio.ensure_future(app(scope, receive, made.sent.put))
    try:
        yield made
    finally:
        made.gone.set()
        await asyncio.wait_for(asking, SECONDS)
