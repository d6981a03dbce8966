"""The queue: the farm's jobs, the newest first, what waits for what, and about when each will be done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from farm.client.outlook import Line, left_seconds, lines, wait_seconds
from farm.jobs.status import JobStatus, State, WorkerInfo
from farm.ledger.ledger import Ledger
from farm.web.pages import frame
from farm.web.parts import AT_ONCE_SECONDS, LOOKS, InSite
from farm.web.v1.jobs import Cursor, cursor_of, position_of

router = APIRouter(include_in_schema=False)

JOBS = 100
"""On a page."""
_MOST_RUNNING = 100


@dataclass(frozen=True)
class Row:
    """A job on the page. `place` is how many go before it, `seconds` about how long until it is done.

    Its `line` is what waits for its model; None where nobody knows of workers.
    """

    status: JobStatus
    place: int | None
    seconds: float | None
    line: Line | None

    @property
    def is_served(self) -> bool:
        """Unless it is known that no live worker has a use for it."""
        return self.line is None or bool(self.line.workers)

    @property
    def is_taken(self) -> bool:
        """Unless it is known that no live worker takes it now."""
        return self.line is None or bool(self.line.takers)


def shared_labels(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The labels that all of these jobs have alike."""
    first, *others = (row.status.labels.items() for row in rows)
    return [label for label in first if all(label in labels for labels in others)]


@dataclass(frozen=True)
class Seen:
    """What the page shows of the ledger. `sizes` is how many jobs each batch has, of which not all need be shown."""

    rows: Sequence[Row]
    lines: Sequence[Line]
    counts: Mapping[State, int]
    sizes: Mapping[str, int]
    following: str | None

    @property
    def batches(self) -> list[tuple[str, str, list[Row]]]:
        """The rows by batch, in their order; each with a name of its own and its batch, which may come again."""
        times: Counter[str] = Counter()
        found = []
        for batch, rows in groupby(self.rows, key=lambda row: row.status.batch):
            found.append((f"{batch}.{times[batch]}", batch, [*rows]))
            times[batch] += 1
        return found


@router.get("/", dependencies=[LOOKS])
async def queue(
    request: Request,
    site: InSite,
    state: State | None = None,
    batch: Annotated[str | None, Query(max_length=100)] = None,
    cursor: Cursor = None,
) -> Response:
    """A page of jobs: of a state, of a batch in its order, or all."""
    workers = await site.workers(within=AT_ONCE_SECONDS)
    seen = await site.ledger(read, site.client.ledger, workers, state=state, batch=batch, cursor=cursor)
    pictured = await site.ledger(_pictured, site.client.ledger, seen.rows) if site.thumbnails else frozenset()
    return frame.page(
        request.scope,
        "queue.html",
        pictured=pictured,
        shared_labels=shared_labels,
        seen=seen,
        state=state,
        batch=batch,
        cursor=cursor,
        knows_workers=workers is not None,
    )


def read(
    ledger: Ledger,
    workers: Sequence[WorkerInfo] | None,
    *,
    state: State | None = None,
    batch: str | None = None,
    cursor: str | None = None,
) -> Seen:
    """What a page shows. Without `workers` nothing is said of when jobs will be done.

    Raises `InvalidInput` for a cursor that is none, `JobNotFound` for a batch that is none, `LedgerUnavailable`.
    """
    jobs, following = _of_batch(ledger, batch, cursor) if batch else _newest(ledger, state, cursor)
    rows, known = foretold(ledger, workers, ledger.get_many(jobs))
    waited = [line for line in known.values() if line.waiting or line.running]
    return Seen(rows, waited, ledger.counts(), ledger.sizes({row.status.batch for row in rows}), following)


def foretold(
    ledger: Ledger, workers: Sequence[WorkerInfo] | None, statuses: Sequence[JobStatus]
) -> tuple[list[Row], dict[str, Line]]:
    """The jobs with about when they will be done, and what waits for what, by model. Raises `LedgerUnavailable`."""
    now, models = ledger.time(), ledger.models()
    running = ledger.get_many(ledger.newest(state="running", limit=_MOST_RUNNING))
    known = lines(ledger.waiting_for(models), workers or (), running, now)
    places = ledger.places([status for status in statuses if status.state == "queued"])
    told = None if workers is None else known
    return [_row(status, places.get(status.id), told, now) for status in statuses], known


def _pictured(ledger: Ledger, rows: Sequence[Row]) -> frozenset[str]:
    """The jobs of the page that have made a picture: not every one that is done has, for studies answer."""
    specs = ledger.specs([row.status.id for row in rows if row.status.state == "done"])
    return frozenset(job for job, spec in specs.items() if spec.has_picture)


def _newest(ledger: Ledger, state: State | None, cursor: str | None) -> tuple[list[str], str | None]:
    jobs, following = ledger.after(position_of(cursor) if cursor else None, state=state, limit=JOBS)
    return jobs, cursor_of(following) if following else None


def _of_batch(ledger: Ledger, batch: str, cursor: str | None) -> tuple[list[str], str | None]:
    jobs = ledger.resolve(batch)
    first = int(cursor) if cursor and cursor.isdecimal() else 0
    return jobs[first : first + JOBS], str(first + JOBS) if first + JOBS < len(jobs) else None


def _row(status: JobStatus, place: int | None, known: Mapping[str, Line] | None, now: datetime) -> Row:
    line = None if known is None else known.get(status.model) or Line(status.model, waiting=0, running=0)
    seconds = left_seconds(status, now)
    if status.state == "queued" and place is not None and line is not None:
        seconds = wait_seconds(line, place)
    return Row(status, place, seconds, line)
