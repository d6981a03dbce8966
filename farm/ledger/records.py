"""What the ledger is told and what it tells: its words in Python, read from fields that anybody may have written."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from pydantic import ValidationError

from farm import keys
from farm.errors import InvalidInput
from farm.jobs.spec import JobSpec
from farm.jobs.status import State, WorkerInfo, state_of

Attempt = tuple[str, int]
"""A job's id and the fencing number of one attempt at it."""

Progress = tuple[str, int, int] | tuple[str, int, int, str]
"""A job's id, the attempt, the steps done, and where it has losses their latest values by name, as JSON."""


@dataclass(frozen=True)
class NewJob:
    """A job about to be recorded."""

    id: str
    spec: JobSpec
    priority: int
    labels: dict[str, str]
    attempt: int = 0
    """The last attempt that was, or may have been, made at it."""
    result: str | None = None
    """The key of that attempt's `result.json`, found in the bucket: the job was done before."""
    checkpoint: int | None = None
    """The attempt whose checkpoint was found in the bucket."""


@dataclass(frozen=True)
class Tie:
    """The bucket that a ledger belongs to: its name, and the random id that it holds."""

    bucket: str
    id: str


@dataclass(frozen=True)
class Claim:
    """A granted claim: the fencing number of this attempt, and what to render."""

    job: str
    attempt: int
    spec: str
    priority: int
    checkpoint: int | None = None
    """The attempt that left a checkpoint to go on from."""
    waited: float = 0.0
    """Seconds since the job was submitted, earlier attempts among them."""
    owed: str | None = None
    """A job that waits, and whose message was used up for this one, which is of another model."""


class Suspect(Exception):
    """The job may have crashed so many workers that only one that does nothing else may claim it."""


@dataclass(frozen=True)
class Renewed:
    """What a worker hears as it renews its leases: the attempts it lost, and those that previews are wanted of."""

    lost: frozenset[Attempt]
    previewed: frozenset[Attempt]


Wish = Literal["finish", "hand-back"]
"""What an operator can wish of a worker that is to take no more jobs: what becomes of those that it has."""


@dataclass(frozen=True)
class Drained:
    """Workers of a name take no more jobs, and what becomes of those that they have."""

    name: str
    wish: Wish
    since: datetime


@dataclass(frozen=True)
class Orders:
    """What a worker hears of people: the attempts that were cancelled, and the names of workers that were told to take
    no more jobs or to go on. `cursor` is where it hears on."""

    cursor: str
    cancelled: frozenset[Attempt] = frozenset()
    told: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Cancelled:
    """The state that a job was in when it was cancelled, and what is no longer of use."""

    before: State
    model: str
    checkpoint: int | None
    """The attempt that left a checkpoint."""
    had_preview: bool
    """There may be a preview."""


@dataclass(frozen=True)
class Prioritised:
    """The state of a job that was to have another priority, and those it had and has: only a queued one's changes."""

    state: State
    before: int
    priority: int


@dataclass(frozen=True)
class Reaped:
    """A job whose lease lapsed, and what became of it."""

    job: str
    model: str
    priority: int
    state: State


@dataclass(frozen=True)
class Lapse:
    """An attempt whose worker fell silent; when it was taken from it, and how its process ended (what follows its id),
    if that is known."""

    worker: str
    attempt: int
    at: datetime | None
    how: str | None


@dataclass(frozen=True)
class Restored:
    """What became of jobs that were to be in the ledger."""

    queued: frozenset[str] = frozenset()
    anew: int = 0
    """Records of which a part was there."""
    indexed: int = 0
    """Whole records that an index did not have."""

    def __add__(self, other: Restored) -> Restored:
        return Restored(self.queued | other.queued, self.anew + other.anew, self.indexed + other.indexed)


@dataclass(frozen=True)
class Cursor:
    """How far the records have been looked over: as Redis scans them, and as the index of all jobs names them."""

    scanned: int = 0
    rank: int = 0


@dataclass(frozen=True)
class Position:
    """A place in the list of jobs, the newest first: the job last told, and its place in the index in milliseconds."""

    job: str
    score: int


@dataclass(frozen=True)
class Demand:
    """How many jobs wait for a model, for how many seconds the first that was submitted, and their mean priority."""

    waiting: int
    oldest: float
    priority: float


@dataclass(frozen=True)
class Watched:
    """How many seconds ago a reaper came by (None: never), and how many leases lapsed long ago and are still there."""

    ago: float | None
    overdue: int


@dataclass(frozen=True)
class Event:
    """Something that happened to a job: a new state, or progress to a step. Or of no job by name: some are `gone`."""

    cursor: str
    job: str
    state: State
    step: int | None
    gone: tuple[str, ...] = ()
    """Jobs that were forgotten on purpose, or whose pictures were deleted."""


def new_token() -> str:
    """What tells one claim from another."""
    return secrets.token_hex(8)


def as_record(batch: str, job: NewJob) -> dict[str, Any]:
    """A new job of a batch as `lua/` takes it."""
    return {
        **({"result": job.result} if job.result else {}),
        **({"checkpoint": job.checkpoint} if job.checkpoint else {}),
        "attempt": job.attempt,
        "id": keys.job_id(job.id),
        "batch": batch,
        "model": job.spec.model,
        "priority": job.priority,
        "steps": job.spec.steps_to_do,
        "prompt": job.spec.prompt[:500],
        "spec": job.spec.to_json(),
        "labels": json.dumps(job.labels),
    }


def read_event(cursor: str, fields: dict[str, str]) -> Event:
    """An entry of the stream of events; one that no ledger wrote is an event of no job."""
    try:
        if "gone" in fields:
            return Event(cursor, "", "queued", None, tuple(map(keys.job_id, json.loads(fields["gone"]))))
        step = int(fields["step"]) if "step" in fields else None
        return Event(cursor, keys.job_id(fields["job"]), state_of(fields["state"]), step)
    except (InvalidInput, KeyError, TypeError, ValueError, RecursionError):
        return Event(cursor, "", "queued", None)


def read_cancellation(fields: dict[str, str]) -> Attempt | None:
    """The attempt that an entry of the stream of cancellations names, or None for one that no ledger wrote."""
    try:
        return fields["cancel"], int(fields["attempt"])
    except (KeyError, ValueError):
        return None


_DRAINED = re.compile(r"([a-z-]{1,20}):([0-9]{1,15}):([0-9]{1,15})")


def read_wish(text: object) -> Wish | None:
    """What an operator wishes, or None for what no ledger wrote."""
    return next((wish for wish in get_args(Wish) if wish == text), None)


def read_drained(name: str, text: str, now: datetime) -> Drained | None:
    """An entry of the workers that take no more jobs, or None for one that has lapsed by `now` or no ledger wrote."""
    found = _DRAINED.fullmatch(text)
    wish = read_wish(found[1]) if found else None
    if not found or not wish or int(found[3]) <= 1000 * now.timestamp():
        return None
    try:
        return Drained(name, wish, datetime.fromtimestamp(int(found[2]) / 1000, UTC))
    except (ValueError, OverflowError, OSError):
        return None


_MOMENT = re.compile(r"([0-9]{1,9}):([0-9]{1,13})(?:,|$)")
_LAPSE = re.compile(r"(.{1,200}?) \(attempt ([0-9]{1,9})\)(?:, |$)")


def read_lapses(text: str) -> list[tuple[str, int]]:
    """The workers and attempts in a job's list of lapses, as `lapse` in `lua/` writes it; of what is none, nothing."""
    return [(worker, int(attempt)) for worker, attempt in _LAPSE.findall(text[:2_000]) if worker.isprintable()]


def read_moments(text: str) -> dict[int, datetime]:
    """When attempts lapsed, as `lapse` in `lua/` notes it beside that list; of what is none, nothing."""
    return {
        int(attempt): datetime.fromtimestamp(int(moment) / 1000, UTC)
        for attempt, moment in _MOMENT.findall(text[:2_000])
    }


def read_worker(record: str) -> WorkerInfo | None:
    """A worker's description, or None for one that another version wrote and this one cannot read."""
    try:
        return WorkerInfo.model_validate_json(record)
    except ValidationError:
        return None


def attempt_of(checkpoint: str) -> int | None:
    """The attempt in `<attempt>:<step>`, or None where there is no checkpoint."""
    attempt = checkpoint.partition(":")[0]
    return int(attempt) if attempt.isdecimal() else None
