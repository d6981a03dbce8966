"""What a worker logged on behalf of one attempt at a job: the last lines, as an object beside what the attempt made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from farm import keys
from farm.bucket.storage import Storage
from farm.errors import ObjectDamaged
from farm.jobs.faults import invalid
from farm.jobs.status import Number, Words
from farm.words import one_line

MAX_LINES = 100
MAX_CHARACTERS = 16_000
"""Of all lines of an attempt together."""
MAX_LINE = 1_000
_MAX_BYTES = 256 * 2**10

Level = Literal["info", "warning", "error"]


def _short(text: str) -> str:
    return one_line(text[:MAX_LINE])


class LogLine(BaseModel):
    """One record of a worker's log. `at` is null where nobody noted when."""

    model_config = ConfigDict(frozen=True)

    at: AwareDatetime | None
    level: Level
    text: Annotated[str, AfterValidator(_short)]


class AttemptLog(BaseModel):
    """The last lines of an attempt at a job, the oldest first; `left_out` is how many there were before them."""

    model_config = ConfigDict(frozen=True)

    job: Annotated[str, AfterValidator(keys.job_id)]
    attempt: Annotated[int, Field(ge=0, le=keys.MAX_ATTEMPT)]
    worker: Words
    lines: Annotated[tuple[LogLine, ...], Field(max_length=MAX_LINES)]
    left_out: Number = 0


def write_log(storage: Storage, log: AttemptLog) -> None:
    """Put it beside what the attempt made. Raises `StorageError`."""
    storage.put(keys.attempt_log(log.job, log.attempt), log.model_dump_json().encode(), "application/json")


def read_log(storage: Storage, job: str, attempt: int) -> AttemptLog:
    """The log of an attempt. Raises `ObjectMissing`, `ObjectTooLarge`, `ObjectDamaged`, `StorageError`."""
    key = keys.attempt_log(job, attempt)
    try:
        found = AttemptLog.model_validate_json(storage.get(key, limit=_MAX_BYTES))
    except ValidationError as error:
        raise ObjectDamaged(f"{key} is not a log: {invalid(error)}") from error
    if (found.job, found.attempt) != (job, attempt):
        raise ObjectDamaged(f"{key} is the log of another attempt")
    return found
