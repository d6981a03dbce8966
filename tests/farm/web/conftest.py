"""A site of an empty farm, on real servers, and those who ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from farm.bucket.storage import Storage
from farm.client import FarmClient
from farm.settings import Settings
from farm.web.access import Access
from farm.web.app import Site, create
from farm.web.limits import Limits
from farm.web.names import Names
from farm.web.sessions import Sessions
from farm.web.tokens import Role, Tokens

BASE = "http://127.0.0.1:8170"


@dataclass
class Web:
    """A site, and clients of each kind."""

    site: Site
    tokens: Tokens
    sessions: Sessions

    def anyone(self, **options: Any) -> httpx2.AsyncClient:
        """Somebody without a token."""
        transport = httpx2.ASGITransport(app=self.site.app, client=("127.0.0.1", 50_000), raise_app_exceptions=False)
        return httpx2.AsyncClient(transport=transport, base_url=BASE, **options)

    def by_token(self, secret: str) -> httpx2.AsyncClient:
        return self.anyone(headers={"Authorization": f"Bearer {secret}"})

    def having(self, role: Role) -> httpx2.AsyncClient:
        """A program with a token of its own."""
        return self.by_token(self.tokens.add(f"{role}-{len(self.tokens.all())}", role))


Opening = Callable[..., AbstractAsyncContextManager[Web]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def opened(tmp_path: Path) -> Opening:
    """Opens a site of a farm."""

    @asynccontextmanager
    async def open_site(
        client: FarmClient,
        *,
        limits: Limits | None = None,
        names: Names | None = None,
        open_to_all: bool = False,
        at_home: bool = False,
    ) -> AsyncIterator[Web]:
        home = tmp_path / "home"
        tokens, sessions = Tokens(home), Sessions()
        access = Access(tokens, sessions, open_to_all=open_to_all)
        site = create(client, access, names=names, limits=limits, home=home if at_home else None)
        async with site.parts.running():
            yield Web(site, tokens, sessions)

    return open_site


@pytest.fixture
async def web(client: FarmClient, opened: Opening) -> AsyncIterator[Web]:
    """The site of an empty farm."""
    async with opened(client) as made:
        yield made


@pytest.fixture(scope="session")
def nowhere() -> Iterator[FarmClient]:
    """A client of a farm whose servers do not answer. One for all: it takes a moment to make."""
    where = Settings("redis://127.0.0.1:1/0", s3_endpoint="http://127.0.0.1:1", s3_access_key="a", s3_secret_key="b")
    with FarmClient(where) as made:
        yield made


@pytest.fixture
def client(client: FarmClient, storage: Storage) -> FarmClient:
    """A client of an empty farm, with the connection to the bucket that all tests share."""
    client.storage = storage
    return client
