"""The page of a job, whichever kind it is."""

from __future__ import annotations

from farm.bucket.results import JobResult
from farm.bucket.storage import Storage
from farm.pages import roundtrip, trace
from farm.pages.gather import Seen, gather


def page(storage: Storage, result: JobResult) -> tuple[str, Seen]:
    """The page as HTML, and what is on it. Raises `WrongState` if the job has no picture, `StorageError`."""
    seen = gather(storage, result)
    return (roundtrip.page(storage, seen) if result.spec.is_study else trace.page(seen)), seen
