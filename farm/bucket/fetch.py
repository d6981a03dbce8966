"""Fetching results: from the bucket to a folder, whole, checked, and never over somebody else's file.

An image becomes `OUT/<job>.png`, the answer of a study that makes none `OUT/<job>.json`; everything else of a job
`OUT/<job>/…`. A file appears under its name only
once its SHA-256 has been checked, so an interrupted fetch resumes where it stopped.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from farm import keys
from farm.bucket.results import ANSWER, IMAGE, JobResult, ResultObject
from farm.bucket.storage import Storage
from farm.errors import FetchRefused

__all__ = ["IMAGE", "Fetched", "fetch", "read", "read_result"]

_MAX_RESULT_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Fetched:
    """One file: where it is, and whether it was already there."""

    job: str
    name: str
    path: Path
    size: int
    already_there: bool


def read_result(storage: Storage, key: str) -> JobResult:
    """The `result.json` under `key`. Raises `ObjectMissing` if there is none."""
    return JobResult.from_json(storage.get(key, limit=_MAX_RESULT_BYTES), key=key)


def read(storage: Storage, stored: ResultObject) -> bytes:
    """One of a result's objects. Raises `FetchRefused` if a checksum differs, `ObjectMissing`, `ObjectTooLarge`."""
    data = storage.get(stored.key, limit=stored.size)
    if hashlib.sha256(data).hexdigest() != stored.sha256:
        raise FetchRefused(_differs(stored))
    return data


def fetch(storage: Storage, result: JobResult, out: Path, *, everything: bool, overwrite: bool) -> Iterator[Fetched]:
    """Bring a result's image, or a study's answer, or all of its objects and `result.json` itself, into `out`.

    Raises `FetchRefused` if a different file is in the way (unless `overwrite`) or a checksum differs.
    """
    job = keys.job_id(result.job)
    first = IMAGE if IMAGE in result.objects else ANSWER
    for name, stored in result.objects.items():
        if everything or name == first:
            yield _keep(
                job, name, stored, _destination(out, job, name, first), overwrite, _from_bucket(storage, stored)
            )
    if everything:
        data = result.model_dump_json(indent=2).encode()
        described = ResultObject(
            key=keys.result(job),
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            content_type="application/json",
        )
        path = out / job / "result.json"
        yield _keep(job, "result.json", described, path, overwrite, lambda unfinished: _write(unfinished, data))


def _destination(out: Path, job: str, name: str, first: str = IMAGE) -> Path:
    if name == first:
        return out / f"{job}{Path(first).suffix}"
    keys.attempt_object(job, 0, name)  # refuses a name that would leave the folder
    return out / job / name


def _from_bucket(storage: Storage, stored: ResultObject) -> Callable[[Path], None]:
    return lambda unfinished: storage.download(stored.key, unfinished, limit=stored.size)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _keep(
    job: str, name: str, stored: ResultObject, path: Path, overwrite: bool, write: Callable[[Path], None]
) -> Fetched:
    """Let `write` bring an object into a file beside `path`, which takes that name once its checksum is right.

    Nothing is written when the object is there already.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.exists():
            if path.is_file() and _sha256(path) == stored.sha256:
                return Fetched(job, name, path, stored.size, already_there=True)
            if not overwrite:
                raise FetchRefused(
                    f"{path} already exists and differs from {stored.key}", hint="give another --out, or --overwrite"
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(unfinished)
            if _sha256(unfinished) != stored.sha256:
                raise FetchRefused(f"{_differs(stored)}; it was not kept")
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise FetchRefused(f"{path} cannot be written: {error.strerror}", hint="give another --out") from error
    return Fetched(job, name, path, stored.size, already_there=False)


def _differs(stored: ResultObject) -> str:
    return f"{stored.key} does not match the checksum in its result"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
