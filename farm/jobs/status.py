"""A job as people and programs see it: one `JobStatus`, with the fields that `--json` prints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from farm import keys
from farm.errors import InvalidInput, LedgerUnavailable
from farm.jobs.faults import quoted
from farm.jobs.limits import Limits
from farm.jobs.losses import LossDeclaration
from farm.jobs.spec import ModelName
from farm.words import one_line

State = Literal["queued", "running", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = get_args(State)
TERMINAL: frozenset[State] = frozenset(("done", "failed", "cancelled"))


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it has characters that cannot be printed")
    return text


def _on_one_line(text: str) -> str:
    return one_line(text[:500])


Reason = Annotated[str, AfterValidator(_on_one_line)]


Words = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_printable)]
Number = Annotated[int, Field(ge=0, lt=2**53)]


class JobError(BaseModel):
    """Why a job failed: a stable `kind` for programs and a `message` for people."""

    kind: str
    message: str


class JobStatus(BaseModel):
    """One job's record in the ledger. Times are UTC; `step` of `steps` are done; `result` is an object key."""

    model_config = ConfigDict(frozen=True)

    id: Annotated[str, AfterValidator(keys.job_id)]
    batch: Annotated[str, AfterValidator(keys.batch_id)]
    state: State
    step: Number
    steps: Annotated[int, Field(ge=1)]
    attempt: Number
    worker: Words | None
    model: ModelName
    priority: int
    submitted: datetime
    started: datetime | None
    finished: datetime | None
    error: JobError | None
    result: str | None
    prompt: str
    labels: dict[str, str]
    warnings: tuple[str, ...]
    losses: Annotated[dict[Words, float], Field(max_length=100)] = {}
    """The latest values, before their scales, of a job that is guided by any."""

    @property
    def is_over(self) -> bool:
        return self.state in TERMINAL

    @property
    def took(self) -> float | None:
        """Seconds from when its last attempt began to its end. What earlier ones took is time that it waited."""
        return (self.finished - self.started).total_seconds() if self.finished and self.started else None

    @classmethod
    def from_record(cls, job: str, record: Mapping[str, str]) -> JobStatus:
        """The status in the ledger hash `record` of the job `job`. Raises `LedgerUnavailable` if it is damaged."""
        try:
            return cls._read(job, record)
        except (InvalidInput, KeyError, TypeError, ValueError, ArithmeticError, OSError, RecursionError) as error:
            raise damaged(job, type(error).__name__) from error

    @classmethod
    def _read(cls, job: str, record: Mapping[str, str]) -> JobStatus:
        return cls(
            id=job,
            batch=record["batch"],
            state=state_of(record["state"]),
            step=int(record["step"]),
            steps=int(record["steps"]),
            attempt=int(record["attempt"]),
            worker=record.get("worker") or None,
            model=record["model"],
            priority=int(record["priority"]),
            submitted=_required_time(record["submitted"]),
            started=_time(record.get("started")),
            finished=_time(record.get("finished")),
            error=JobError.model_validate_json(record["error"]) if record.get("error") else None,
            result=record.get("result") or None,
            prompt=record["prompt"],
            labels=json.loads(record.get("labels") or "{}"),
            warnings=tuple(json.loads(record.get("warnings") or "[]")),
            losses=json.loads(record.get("losses") or "{}"),
        )


@dataclass(frozen=True)
class Waiting:
    """A queued job for which a message should be published."""

    job: str
    model: str
    priority: int


class MemoryUse(BaseModel):
    """Memory of a device or a machine, in bytes: how much there is, and how much is taken by whomever and by a worker's
    own process, where that is known."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    total: Annotated[int, Field(ge=1, lt=2**53)]
    used: Number | None = None
    own: Number | None = None

    @property
    def taken(self) -> int | None:
        """What is not to be had any more, as far as that is known."""
        known = self.own if self.used is None else self.used
        return None if known is None else min(known, self.total)


ModelNames = Annotated[tuple[ModelName, ...], Field(max_length=1_000)]


class WorkerInfo(BaseModel):
    """What a live worker says of itself; a record lapses when it stops saying so.

    It is bounded, and shown to people: whoever can write to Redis can announce a worker.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    id: Words
    host: Words
    pid: Number
    device: Words
    state: Literal["starting", "ready", "draining"]
    models: ModelNames
    warm: ModelNames = ()
    loading: ModelName | None = None
    """A model that it loads now, for jobs that wait."""
    slots: Number
    jobs: Number
    refused: Annotated[dict[ModelName, Reason], Field(max_length=1_000)] = {}
    """Models that it was given and cannot serve, and why not."""
    paused: Reason | None = None
    """Why it takes no jobs now, if it does not."""
    losses: Annotated[tuple[LossDeclaration, ...], Field(max_length=1_000)] = ()
    embeddings: Annotated[tuple[Words, ...], Field(max_length=1_000)] = ()
    """What it knows of textual inversion, by name; not every model need have a use for each of them."""
    limits: Limits = Limits()
    """What its operator lets jobs ask for."""
    version: Words
    started: AwareDatetime
    done: Number = 0
    images_per_minute: float | None = None
    drained: bool = False
    """An operator has told it to take no more jobs."""
    rows: Number | None = None
    """Of the engine's last step; 0 when it has nothing to do."""
    max_rows: Number | None = None
    """Of a step."""
    device_memory: MemoryUse | None = None
    """Of a GPU. A CPU has none but the machine's."""
    host_memory: MemoryUse | None = None

    @property
    def name(self) -> str:
        """What it is called, however often its process is started again: what comes before that in its id."""
        return keys.worker_name(self.id)

    @property
    def condition(self) -> Literal["starting", "ready", "draining", "drained", "paused"]:
        """Its state in one word, with whether it takes jobs when it could."""
        if self.state != "ready":
            return self.state
        return "drained" if self.drained else "paused" if self.paused else "ready"

    @property
    def idle_because(self) -> str | None:
        """Why it takes no jobs until something is done about it, if it does not. One that starts soon does."""
        if self.state == "draining":
            return "stopping"
        return self.paused or ("drained by an operator" if self.drained else None)


def damaged(job: str, why: str) -> LedgerUnavailable:
    """The error to raise for a record that cannot be read."""
    return LedgerUnavailable(
        f"the record of job {quoted(job)} is damaged ({why})",
        hint="who else writes to this Redis? 'farm recover' rebuilds it from the bucket",
    )


def state_of(text: str) -> State:
    """The state called `text`. Raises `ValueError`."""
    for state in STATES:
        if state == text:
            return state
    raise ValueError(f"the ledger has a job in the unknown state {text!r}")


def _time(milliseconds: str | None) -> datetime | None:
    return _required_time(milliseconds) if milliseconds else None


def _required_time(milliseconds: str) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, tz=UTC)
