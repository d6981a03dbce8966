"""The pages in a real browser: a site on real servers whose connections can be cut, and people who look at it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from playwright.sync_api import Browser, Page

from farm.cli.commands.forms import SubmitForms
from farm.client import FarmClient
from farm.settings import Settings
from farm.web.access import Access
from farm.web.app import create
from farm.web.hub import Hub
from farm.web.limits import Limits
from farm.web.server import Serving, bound, configuration
from farm.web.sessions import Sessions
from farm.web.tokens import Role, Tokens
from tests.browsers import CHROMIUM, MISSING, chromium
from tests.faults.proxy import Proxy

PHONE = {"width": 390, "height": 844}


@dataclass
class Pages:
    """A site, and the ways to its servers."""

    address: str
    access: Access
    redis: Proxy
    s3: Proxy
    hub: Hub
    home: Path

    @property
    def is_followed(self) -> bool:
        """Whether a page hears of events."""
        return bool(self.hub._followers)

    def cookie(self, role: Role) -> dict[str, Any]:
        """The cookie of somebody who has come in."""
        name, _, value = self.access.cookie(
            self.access.sessions.begin("ada", role, token=None), secure=False
        ).partition("=")
        return {"name": name, "value": value.partition(";")[0], "url": self.address}


@pytest.fixture(scope="module")
def pages(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """A site of the servers of the session, for all tests of a module."""
    redis, s3 = (Proxy(urlsplit(url or "").port or 0) for url in (servers.redis_url, servers.s3_endpoint))
    url = servers.redis_url.replace(f":{urlsplit(servers.redis_url).port}", f":{redis.port}")
    where = replace(servers, redis_url=url, s3_endpoint=f"http://127.0.0.1:{s3.port}")
    with bound("127.0.0.1", 0) as listening, FarmClient(where) as client:
        port = listening.getsockname()[1]
        home = tmp_path_factory.mktemp("web") / "home"
        access = Access(Tokens(home), Sessions(), port=port)
        made = create(client, access, limits=Limits(requests=1_000), home=home, forms=SubmitForms())
        server = uvicorn.Server(configuration(made.app, Serving()))
        listening.listen(100)
        serving = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        serving.start()
        yield Pages(f"http://127.0.0.1:{port}", access, redis, s3, made.parts.hub, home)
        server.should_exit = True
        made.parts.hub.close()
        serving.join(30)
    redis.close()
    s3.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(MISSING)
    with chromium() as running:
        yield running


@dataclass
class Said:
    """What pages said in the console, and whom but the site they asked."""

    lines: list[str] = field(default_factory=list)


@pytest.fixture
def said() -> Iterator[Said]:
    """At the end of a test its pages have said nothing; one that expects something clears it."""
    heard = Said()
    yield heard
    assert heard.lines == []


Show = Callable[..., Page]


@pytest.fixture
def show(browser: Browser, pages: Pages, said: Said) -> Iterator[Show]:
    """Opens a page of the site for somebody of a role (None: who has not come in) in a window of its own."""
    contexts = []

    def open_page(path: str, role: Role | None = "operate", **options: Any) -> Page:
        context = browser.new_context(base_url=pages.address, **options)
        contexts.append(context)
        if role:
            context.add_cookies([pages.cookie(role)])  # type: ignore[list-item]  # a plain dict
        page = context.new_page()
        page.clock.install()  # so that nobody waits for what comes a few seconds later
        page.on("console", lambda message: said.lines.append(message.text))
        page.on("pageerror", lambda error: said.lines.append(str(error)))
        page.on("dialog", lambda dialog: said.lines.append(dialog.message))
        page.on(
            "request",
            lambda asked: (
                said.lines.append(asked.url) if not asked.url.startswith((pages.address, "blob:", "data:")) else None
            ),
        )
        page.goto(path)
        return page

    yield open_page
    for context in contexts:
        context.close()
