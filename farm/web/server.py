"""The server: one process, on this machine alone unless it is told otherwise, that ends when it is asked to."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from farm.client import FarmClient
from farm.errors import InvalidInput, StackError
from farm.settings import Settings
from farm.web.access import Access
from farm.web.app import Site, create
from farm.web.forms import Forms
from farm.web.limits import Limits
from farm.web.names import Names, is_loopback
from farm.web.sessions import Sessions
from farm.web.tokens import Tokens

DEFAULT_PORT = 8170
_MOST_CONNECTIONS = 4_000
_GRACE_SECONDS = 5
_PATIENCE_SECONDS = 1.5
"""As long as a thread waits for events, and a little."""
_ANSWERS_WITHIN = 5.0
"""Seconds: whoever looks at a page would rather be told that Redis does not answer."""
_ASKED_TO_END = (signal.SIGINT, signal.SIGTERM)


_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Serving:
    """Where and how to serve. `trusted` are proxies whose `X-Forwarded-*` is believed, as addresses or networks."""

    address: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    names: Sequence[str] = ()
    trusted: Sequence[str] = ()
    open_to_all: bool = False
    certificate: Path | None = None
    key: Path | None = None
    reindex: bool = False
    """Make the index of pictures anew."""
    or_another: bool = False
    """Take another port where this one is taken."""

    def check(self, tokens: Tokens) -> None:
        """Raises `InvalidInput` for what would be unsafe, or cannot be."""
        for name in self.names:
            if not _NAME.fullmatch(name):
                raise InvalidInput(
                    f"{name!r:.60} is not a host's name", field="--name", hint="such as farm.example.org"
                )
        for proxy in self.trusted:
            try:
                ip_network(proxy, strict=False)
            except ValueError as error:
                raise InvalidInput(
                    f"{proxy!r:.60} is not an address", field="--trust", hint="such as 10.0.0.1, or 10.0.0.0/24"
                ) from error
        if not is_loopback(self.address):
            if self.open_to_all:
                raise InvalidInput(
                    f"would let everybody who reaches {self.address} do everything",
                    field="--no-auth",
                    hint="leave out --bind; beyond this machine there are tokens: farm token add NAME --role ROLE",
                )
            if not tokens.all():
                raise InvalidInput(
                    f"{self.address} can be reached from other machines, and there is no token",
                    field="--bind",
                    hint="make one first: farm token add NAME --role submit",
                )
        if (self.certificate is None) != (self.key is None):
            raise InvalidInput("goes with --tls-key, and that with it", field="--tls-cert")
        if self.certificate:
            try:
                ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self.certificate, self.key)
            except OSError as error:
                reason = error.strerror or str(error)
                raise InvalidInput(f"cannot be used with its key: {reason}", field="--tls-cert") from error


class _Server(uvicorn.Server):
    """Ends what is open before it waits for it, and ends with success when it is asked to."""

    def __init__(self, config: uvicorn.Config, site: Site) -> None:
        super().__init__(config)
        self._site = site

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._site.parts.hub.close()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn calls it
        """Asked again it goes on ending, which takes seconds at the most; uvicorn would drop what it is at."""
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in _ASKED_TO_END}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(
    where: Settings,
    home: Path,
    how: Serving,
    *,
    forms: Forms,
    ready: Callable[[str, str], None],
    reopened: Callable[[str], None] | None = None,
    limits: Limits | None = None,
) -> bool:
    """Serve a farm to callers within `limits` until SIGINT or SIGTERM. `ready` is told the site's address and the one
    that lets a browser in.

    That one is of use once; where `reopened` is given, it is told another whenever one has been used.

    False if threads are left that a server which does not answer holds up, and which would hold up the process' end.

    Raises `InvalidInput` for what would be unsafe, `HomeRefused`, and `StackError` where the port is taken.
    """
    tokens = Tokens(home)
    how.check(tokens)
    with closing(_listening(how)) as listening, FarmClient(where, answers_within=_ANSWERS_WITHIN) as client:
        port: int = listening.getsockname()[1]
        address = f"{'https' if how.certificate else 'http'}://{_shown(how)}:{port}"

        def door(code: str | None) -> str:
            return f"{address}/login?code={code}"

        sessions = Sessions(renewed=None if reopened is None else lambda code: reopened(door(code)))
        access = Access(tokens, sessions, open_to_all=how.open_to_all, port=port)
        names = Names(frozenset(name.lower() for name in how.names), loopback_only=is_loopback(how.address))
        site = create(client, access, names=names, limits=limits, home=home, reindex=how.reindex, forms=forms)
        server = _Server(configuration(site.app, how), site)
        listening.listen(2_048)
        ready(f"{address}/", door(sessions.code))
        server.run(sockets=[listening])
    ended = time.monotonic()
    while site.parts.is_busy and time.monotonic() < ended + _PATIENCE_SECONDS:
        time.sleep(0.02)
    return not site.parts.is_busy


def configuration(app: ASGIApp, how: Serving) -> uvicorn.Config:
    """How uvicorn serves the site."""
    behind = ProxyHeadersMiddleware(app, trusted_hosts=[*how.trusted]) if how.trusted else app  # type: ignore[arg-type]
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_an_error)
    return uvicorn.Config(
        behind,
        lifespan="on",
        log_config=None,
        access_log=False,  # it would write down codes
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        ssl_certfile=how.certificate,
        ssl_keyfile=how.key,
    )


def _is_an_error(record: logging.LogRecord) -> bool:
    """Not what is cut off because the server ends: uvicorn says in a line how much that was, and then a traceback of
    each."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def _listening(how: Serving) -> socket.socket:
    try:
        return bound(how.address, how.port)
    except StackError:
        if not how.or_another:
            raise
        return bound(how.address, 0)


def bound(address: str, port: int) -> socket.socket:
    """A socket to listen at. Raises `StackError` where that cannot be."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # Of what says that it is TCP, asyncio sends each part at once; else an answer's body waits 40 ms for its head.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
    except OSError as error:
        made.close()
        reason = error.strerror or str(error)
        raise StackError(f"cannot listen at {address}, port {port}: {reason}", hint="give another --port") from error
    return made


def _shown(how: Serving) -> str:
    """The site's name in the address that is told."""
    if how.names:
        return how.names[0]
    if how.address in ("0.0.0.0", "::"):  # noqa: S104 - it is what was asked for
        return "localhost"
    return f"[{how.address}]" if ":" in how.address else how.address
