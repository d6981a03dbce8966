"""What every request passes before it reaches a page or an API, and what every answer is given on its way out.

The order is the point: by whose name and from whose page, then who, then how often, and only then is a body read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from farm.errors import FarmError, HomeRefused
from farm.web.access import Access, Caller, unknown
from farm.web.dialects import Dialects
from farm.web.limits import Usage
from farm.web.names import Names
from farm.web.problems import Refused, later

log = logging.getLogger("farm.web")

CALLER = "farm.caller"
"""Where a request's scope says who asks: a `Caller`, or None on what is open to everybody."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""What an answer has unless it says otherwise itself."""


class Guard:
    """The outermost part of the site. `public` paths are open to everybody; `large` ones take pictures.

    What is PUT below `streamed` paths has no bounds here, and is read by what answers, as it comes. What is at `shown`
    paths may be shown in pages of other sites. `dialects` make the answers to what is refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        names: Names,
        access: Access,
        usage: Usage,
        public: Collection[str],
        large: Collection[str],
        streamed: Collection[str] = (),
        shown: Collection[str] = (),
        dialects: Dialects | None = None,
    ) -> None:
        self._app, self._names, self._access, self._usage = app, names, access, usage
        self._dialects = dialects or Dialects()
        self._public, self._large, self._streamed, self._shown = public, large, tuple(streamed), shown
        self._buffered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:  # there are no websockets
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status, whole = time.monotonic(), 0, False
        caller: Caller | None = None

        async def guarded(message: Message) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)
            whole = message["type"] == "http.response.body" and not message.get("more_body")

        try:
            caller = scope[CALLER] = self._admitted(scope)
            with_body, held = await self._with_body(scope, receive)
            try:
                await self._app(scope, with_body, guarded)
            finally:
                self._buffered -= held
        except (Refused, FarmError) as error:
            await self._dialects.response(scope, error)(scope, receive, guarded)
        except Exception:
            log.exception("a fault of the farm's, at %s %s", scope["method"], scope["path"])
            if status and not whole:
                raise  # the connection ends, so that nobody takes the answer for whole
        finally:
            taken = 1000 * (time.monotonic() - began)
            name = caller.name if caller else "-"
            log.info("%s %s %s %s %.0f ms", name, scope["method"], scope["path"], status or "gone", taken)

    def _admitted(self, scope: Scope) -> Caller | None:
        headers, method = Headers(scope=scope), scope["method"]
        shown = scope["path"] in self._shown
        self._names.check(headers, method=method, scheme=scope.get("scheme", "http"), shown_elsewhere=shown)
        address = scope["client"][0] if scope.get("client") else "-"
        try:
            caller = self._access.caller(headers, method=method)
            if caller is None and scope["path"] not in self._public:
                raise unknown("this needs a token, or a session")
        except Refused as refused:
            if refused.problem.status == 401:
                self._usage.refusal(address)
            raise
        except HomeRefused as error:  # nobody is known yet who might be told where they lie
            log.error("%s", error)
            raise later(503, "tokens-unreadable", "the tokens cannot be read; the site's log says why", 5) from None
        self._usage.request(f"token {caller.name}" if caller else f"address {address}")
        return caller

    async def _with_body(self, scope: Scope, receive: Receive) -> tuple[Receive, int]:
        """What gives the body that has been read, and how many bytes are counted for it."""
        headers = Headers(scope=scope)
        if "content-length" not in headers and "transfer-encoding" not in headers:
            return receive, 0
        if scope["method"] == "PUT" and scope["path"].startswith(self._streamed):
            return receive, 0
        limits = self._usage.limits
        most = limits.large_body if scope["path"] in self._large else limits.body
        too_large = Refused(413, "body-too-large", f"the body has more than {most:,} bytes")
        told = headers.get("content-length", "")
        if told.isdecimal() and (len(told) > 15 or int(told) > most):
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "body-not-whole", "the connection ended before the body did")
                    part = message.get("body", b"")
                    if len(body) + len(part) > most:
                        raise too_large
                    if self._buffered + len(part) > limits.buffered:
                        raise later(503, "busy", "too many large requests are being read", 5)
                    body += part
                    self._buffered += len(part)
                    if not message.get("more_body"):
                        break
        except BaseException as error:
            self._buffered -= len(body)
            if isinstance(error, TimeoutError):
                raise Refused(408, "body-too-slow", "the body did not come in time") from None
            raise
        return _replayed(bytes(body), receive), len(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body once, and then what comes after it: the end of the connection."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
