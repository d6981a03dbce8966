"""Events for everybody who follows: the ledger's stream is read once, whatever number of streams is open here.

One thread waits for Redis while somebody follows, and none for those who do. Statuses are read and serialised once for
all. What a follower has not taken yet is kept as the latest status of each job, so that a slow one costs no more than
that, and misses no more than what was overtaken.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from farm.errors import FarmError, JobNotFound
from farm.jobs.status import JobStatus
from farm.ledger.ledger import Ledger
from farm.web.bridge import Bridge
from farm.web.problems import Refused

log = logging.getLogger("farm.web")

MOST_PENDING = 2_000
"""Jobs of the whole farm that a slow follower can be told of one by one."""
_WAIT_SECONDS = 1.0
_AGAIN_SECONDS = 0.5
_SILENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Told:
    """A job's status, and the same as JSON."""

    status: JobStatus
    data: str


@dataclass(frozen=True)
class News:
    """What a follower takes at once. `reset`: there was more than could be kept; the list is to be read anew."""

    cursor: str
    told: Sequence[Told]
    reset: bool
    trouble: FarmError | None


class Follower:
    """Follows some jobs until all are over, or without `jobs` the whole farm, for ever."""

    def __init__(self, jobs: Iterable[str] | None) -> None:
        self.latest: dict[str, JobStatus | None] | None = None if jobs is None else dict.fromkeys(jobs)
        self.jobs = frozenset(self.latest or ())
        self.closed = False
        self._pending: dict[str, Told] = {}
        self._cursor, self._reset = "0-0", False
        self._trouble: FarmError | None = None
        self._changed = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether nothing more can come."""
        return self.latest is not None and all(status and status.is_over for status in self.latest.values())

    @property
    def going_on(self) -> list[str]:
        """The jobs that are not over, as far as is known."""
        return [job for job, status in (self.latest or {}).items() if not (status and status.is_over)]

    async def news(self, *, within: float) -> News | None:
        """What has happened since it was last asked; None if nothing does `within` so many seconds."""
        if not (self._pending or self._reset or self._trouble or self.closed):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), within)
        self._changed.clear()
        if not (self._pending or self._reset or self._trouble):
            return None
        news = News(self._cursor, list(self._pending.values()), self._reset, self._trouble)
        self._pending, self._reset, self._trouble = {}, False, None
        return news

    def tell(self, cursor: str, told: Iterable[Told]) -> None:
        self._cursor = cursor
        for one in told:
            if self.latest is not None:
                if self.latest.get(one.status.id) == one.status:
                    continue
                self.latest[one.status.id] = one.status
            self._pending[one.status.id] = one
        if self.latest is None and len(self._pending) > MOST_PENDING:
            self.lose()
        if self._pending:
            self._changed.set()

    def lose(self) -> None:
        """More happened than can be told of."""
        self._pending, self._reset = {}, True
        self._changed.set()

    def worry(self, trouble: FarmError) -> None:
        self._trouble = trouble
        self._changed.set()

    def drop(self, job: str) -> None:
        """A job has no record any more."""
        if self.latest is not None:
            self.latest.pop(job, None)
            self._changed.set()

    def close(self) -> None:
        self.closed = True
        self._changed.set()


class Hub:
    """All who follow. `run` it as a task; `close` ends every stream, and lets go of everybody who waits."""

    def __init__(self, ledger: Ledger, bridge: Bridge) -> None:
        self._ledger, self._bridge = ledger, bridge
        self.reading = Bridge("events", threads=1, waiting=0)
        self._followers: set[Follower] = set()
        self._by_job: dict[str, set[Follower]] = {}
        self._cursor: str | None = None
        # Statuses are read and told, and followers join, one at a time: nobody is told an older status after a newer.
        self._turn = asyncio.Lock()
        self._wanted = asyncio.Event()
        self.closed = False

    async def follow(self, jobs: Sequence[str] | None, *, since: str | None = None) -> Follower:
        """Begin to follow: first comes what the jobs are now, or if it is known what changed since a cursor.

        Raises `JobNotFound` if none of the jobs has a record, `LedgerUnavailable`.
        """
        follower = Follower(jobs)
        async with self._turn:
            if self._cursor is None:
                self._cursor = await self._bridge(self._ledger.now)
            changed = None if since is None else await self._bridge(self._ledger.changed_since, since)
            await self._catch_up(follower, jobs, since, changed)
            self._join(follower)
        return follower

    async def _catch_up(
        self, follower: Follower, jobs: Sequence[str] | None, since: str | None, changed: list[str] | None
    ) -> None:
        assert self._cursor is not None
        if jobs is None:
            if changed is not None:
                follower.tell(self._cursor, await self._read(changed[:MOST_PENDING]))
            if since is not None and (changed is None or len(changed) > MOST_PENDING):
                follower.lose()
            return
        told = await self._read(jobs)
        if not told:
            raise JobNotFound("none of the jobs has a record", hint="'farm list' shows the jobs of this farm")
        for job in set(jobs) - {one.status.id for one in told}:
            follower.drop(job)
        if changed is not None and follower.latest is not None:
            news = set(changed)
            for one in told:
                if one.status.id not in news:
                    follower.latest[one.status.id] = one.status
        follower.tell(self._cursor, told)

    def _join(self, follower: Follower) -> None:
        self._followers.add(follower)
        for job in follower.jobs:
            self._by_job.setdefault(job, set()).add(follower)
        if self.closed:
            follower.close()
        self._wanted.set()

    def leave(self, follower: Follower) -> list[str]:
        """Follow no more. Returns the jobs that are not over and that nobody else follows by name."""
        self._followers.discard(follower)
        alone = []
        for job in follower.jobs:
            others = self._by_job.get(job, set())
            others.discard(follower)
            if not others:
                self._by_job.pop(job, None)
                alone.append(job)
        going_on = set(follower.going_on)
        return [job for job in alone if job in going_on]

    async def run(self) -> None:
        """Read the ledger's events for as long as there are followers, until it is closed."""
        loop = asyncio.get_running_loop()
        looked, lost = loop.time(), False
        while not self.closed:
            if not self._followers:
                async with self._turn:
                    if not self._followers:
                        self._cursor = None
                        self._wanted.clear()
                await self._wanted.wait()
                looked = loop.time()
                continue
            try:
                assert self._cursor is not None
                events = await self.reading(self._ledger.events, self._cursor, wait=_WAIT_SECONDS)
                jobs = {event.job for event in events if event.job}
                again = lost or loop.time() - looked > _SILENCE_SECONDS  # what the bounded stream dropped
                async with self._turn:
                    self._cursor = events[-1].cursor if events else self._cursor
                    await self._tell(jobs | self._going_on() if again else jobs)
                if again:
                    looked = loop.time()
                if lost:
                    lost = False
                    for follower in self._followers:
                        if follower.latest is None:
                            follower.lose()
            except Exception as error:  # whatever it is, those who follow are not to wait for nothing
                if not isinstance(error, FarmError | Refused):
                    log.exception("a fault of the farm's in following events")
                if not lost and isinstance(error, FarmError):
                    for follower in self._followers:
                        follower.worry(error)
                lost = True
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _tell(self, jobs: set[str]) -> None:
        assert self._cursor is not None
        of_all = {follower for follower in self._followers if follower.latest is None}
        wanted = sorted(jobs if of_all else jobs & self._by_job.keys())
        if not wanted:
            return
        told = {one.status.id: one for one in await self._read(wanted)}
        shares: dict[Follower, list[Told]] = {follower: list(told.values()) for follower in of_all}
        for job in wanted:
            for follower in self._by_job.get(job, ()):
                if job in told:
                    shares.setdefault(follower, []).append(told[job])
                else:
                    follower.drop(job)
        for follower, share in shares.items():
            follower.tell(self._cursor, share)

    def _going_on(self) -> set[str]:
        return {job for follower in self._followers for job in follower.going_on}

    async def _read(self, jobs: Sequence[str]) -> list[Told]:
        return await self._bridge(_told, self._ledger, jobs)

    def close(self) -> None:
        self.closed = True
        self._wanted.set()
        for follower in self._followers:
            follower.close()
        self.reading.close()


def _told(ledger: Ledger, jobs: Sequence[str]) -> list[Told]:
    return [Told(status, status.model_dump_json()) for status in ledger.get_many(jobs)]
