"""Studies from the client's side: what can be asked, what became of it, and the answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from farm.bucket.fetch import read
from farm.bucket.results import ANSWER, JobResult
from farm.bucket.storage import Storage
from farm.errors import InvalidInput, JobNotFound, ObjectMissing, ObjectTooLarge, RenderError
from farm.jobs.answers import MAX_ANSWER_BYTES, read_answer
from farm.jobs.request import JobRequest
from farm.jobs.spec import STUDIES
from farm.jobs.status import JobStatus

ARRAYS = "arrays.npz"
_MAX_ARRAYS_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Answered:
    """An answer, of one of the forms in `farm.jobs.answers`, and the result that it came with."""

    answer: Any
    result: JobResult


def check(request: JobRequest) -> None:
    """Raise `InvalidInput` for what has no answer: a picture, or several jobs."""
    if request.mode not in STUDIES or request.count > 1:
        what = f"{request.count:,} jobs" if request.count > 1 else f"'{request.mode}'"
        raise InvalidInput(f"{what} cannot be asked", field="mode", hint=f"ask one of {', '.join(STUDIES)}")


def await_answer(job: str, statuses: Iterable[JobStatus]) -> None:
    """Follow a job until it is done. Raises `RenderError` if it ends otherwise, and `JobNotFound` if it is lost."""
    latest = None
    for status in statuses:
        latest = status
    if latest is None or not latest.is_over:
        raise JobNotFound(f"the record of job {job} was lost on the way", hint="'farm recover' rebuilds it")
    if latest.state != "done":
        kind, why = (
            (latest.error.kind, latest.error.message) if latest.error else (latest.state, f"it is {latest.state}")
        )
        raise RenderError(kind, f"job {job} has no answer: {why}")


def answer_of(storage: Storage, result: JobResult) -> Any:
    """The answer to a study, checked. Raises `ObjectMissing`, `ObjectDamaged`, `FetchRefused`, `StorageError`."""
    stored = result.objects.get(ANSWER)
    if stored is None:
        raise ObjectMissing(f"job {result.job} is a picture, and answers nothing")
    if stored.size > MAX_ANSWER_BYTES:
        raise ObjectTooLarge(f"{stored.key} has {stored.size:,} bytes, more than {MAX_ANSWER_BYTES:,}")
    return read_answer(read(storage, stored), result.spec.mode, key=stored.key)


def arrays_of(storage: Storage, result: JobResult) -> bytes:
    """The arrays of a study as a file of NumPy's, checked. Raises `ObjectMissing`, `FetchRefused`, `StorageError`."""
    stored = result.objects.get(ARRAYS)
    if stored is None:
        raise ObjectMissing(f"job {result.job} has no arrays")
    if stored.size > _MAX_ARRAYS_BYTES:
        raise ObjectTooLarge(f"{stored.key} has {stored.size:,} bytes, more than {_MAX_ARRAYS_BYTES:,}")
    return read(storage, stored)
