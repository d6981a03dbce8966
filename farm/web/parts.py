"""What the pages and the APIs of the site are made of, put together in one place and handed to each of them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from farm.bucket.models import manifests
from farm.client import FarmClient
from farm.jobs.status import WorkerInfo
from farm.web.access import Access, Caller, unknown
from farm.web.bridge import Bridge
from farm.web.forms import Forms
from farm.web.guard import CALLER
from farm.web.hub import Hub
from farm.web.index.index import Index
from farm.web.kept import Kept
from farm.web.limits import Usage
from farm.web.problems import Refused
from farm.web.thumbnails import Thumbnails
from farm.web.tokens import Role
from farm.web.uploads import Uploads

AT_ONCE_SECONDS = 0.05
"""A page waits no longer for what it can do without: that comes with its next look."""
_WORKERS_SECONDS = 2.0
_MODELS_SECONDS = 5.0


@dataclass(frozen=True)
class Parts:
    """One farm as the site sees it. What asks Redis goes over `ledger`, what asks the bucket too over `bucket`.

    So a bucket that is away holds up nothing that needs only Redis. What is looked up in the index goes over
    `searches`, and pictures are made small over `painting`; a site without a home has neither index nor thumbnails.
    """

    client: FarmClient
    access: Access
    usage: Usage
    ledger: Bridge
    bucket: Bridge
    hub: Hub
    workers: Kept[Sequence[WorkerInfo]]
    """The live workers, for pages: they are found by a look at every key of Redis."""
    kept_models: Kept[Collection[str]]
    """The names of the models that the farm keeps, for pages."""
    searches: Bridge
    painting: Bridge
    index: Index | None = None
    thumbnails: Thumbnails | None = None
    uploads: Uploads | None = None
    """What takes files of models and LoRAs; a site without a home takes none."""
    forms: Forms | None = None
    """What can be filled in to submit jobs."""
    tasks: set[asyncio.Task[object]] = field(default_factory=set)
    """What goes on after its request has ended."""
    under_way: set[str] = field(default_factory=set)
    """Batches that are being submitted at this moment."""
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    """What tells this process from others that serve the same farm."""

    @classmethod
    def of(
        cls,
        client: FarmClient,
        access: Access,
        usage: Usage,
        *,
        home: Path | None = None,
        reindex: bool = False,
        forms: Forms | None = None,
    ) -> Parts:
        """The parts of a site that keeps its index and thumbnails in `home`, if it has one."""
        ledger = Bridge("ledger", threads=8, waiting=1_000)
        _ = client.queue, client.storage  # made here, and not by two threads at once
        bucket = Bridge("bucket", threads=8, waiting=200)
        hub = Hub(client.ledger, ledger)
        return cls(
            client,
            access,
            usage,
            ledger,
            bucket,
            hub,
            Kept(lambda: ledger(client.workers), seconds=_WORKERS_SECONDS),
            Kept(lambda: bucket(_names_of_models, client), seconds=_MODELS_SECONDS),
            searches=Bridge("index", threads=2, waiting=200),
            painting=Bridge("thumbnails", threads=2, waiting=500),
            index=Index(client, home, afresh=reindex) if home else None,
            thumbnails=Thumbnails(home) if home else None,
            uploads=Uploads(home, usage.limits, local=client.settings.local) if home else None,
            forms=forms,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """For as long as the site is up."""
        if self.uploads:
            self.uploads.sweep()
        following = asyncio.create_task(self.hub.run())
        if self.index:
            self.index.feeder.start()
        try:
            yield
        finally:
            self.hub.close()
            if self.index:
                self.index.feeder.close()
            following.cancel()
            await asyncio.gather(following, *self.tasks, return_exceptions=True)
            for bridge in (self.ledger, self.bucket, self.searches, self.painting, *self._of_uploads):
                bridge.close()

    @property
    def is_busy(self) -> bool:
        """Whether something still waits for Redis or the bucket."""
        bridges = (self.ledger, self.bucket, self.painting, self.hub.reading, *self._of_uploads)
        return any(bridge.is_busy for bridge in bridges) or bool(self.index and self.index.feeder.is_busy)

    @property
    def _of_uploads(self) -> Sequence[Bridge]:
        return [self.uploads.bridge] if self.uploads else []

    def afterwards(self, task: asyncio.Task[object]) -> None:
        """Let a task go on after its request has ended."""
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def _names_of_models(client: FarmClient) -> Collection[str]:
    client.check_bucket(only_to_read=True)
    return manifests(client.storage)


async def parts_of(request: Request) -> Parts:
    """The parts of the site that a request came to. A coroutine, like all dependencies: others get a thread each."""
    parts: Parts = request.app.state.parts
    return parts


def may(role: Role) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency: who asks, who has to have this role."""

    async def caller(request: Request) -> Caller:
        found: Caller | None = request.scope.get(CALLER)
        if found is None:
            raise unknown("this needs a token, or a session")
        if not found.may(role):
            raise Refused(
                403,
                "role-too-small",
                f"{found.name} has the role {found.role!r}, and this needs {role!r}",
                hint=f"farm token add NAME --role {role}",
            )
        return found

    return caller


InSite = Annotated[Parts, Depends(parts_of)]
Looking = Annotated[Caller, Depends(may("view"))]
Submitting = Annotated[Caller, Depends(may("submit"))]
Operating = Annotated[Caller, Depends(may("operate"))]
LOOKS, SUBMITS, OPERATES = Depends(may("view")), Depends(may("submit")), Depends(may("operate"))
"""For what asks for a role, and does not mind whose."""
