"""Fetching results: from the bucket to a folder, whole, checked, and never over somebody else's file.

An image becomes `OUT/<job>.png`; everything else of a job `OUT/<job>/…`. A file appears under its name only
when its SHA-256 has been checked, so an interrupted fetch is taken up again where it stopped.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from farm import keys
from farm.errors import FetchRefused
from farm.results import JobResult, ResultObject
from farm.storage import Storage

IMAGE = "image.png"
_MAX_RESULT_BYTES = 4 * 2**20


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


def fetch(storage: Storage, result: JobResult, out: Path, *, everything: bool, overwrite: bool) -> Iterator[Fetched]:
    """Bring a result's image, or all of its objects and `result.json` itself, into `out`.

    Raises `FetchRefused` if a different file is in the way (unless `overwrite`) or a checksum differs.
    """
    job = keys.job_id(result.job)
    for name, stored in result.objects.items():
        if everything or name == IMAGE:
            yield _keep(job, name, stored, _destination(out, job, name), overwrite, partial(storage.get, stored.key))
    if everything:
        data = result.model_dump_json(indent=2).encode()
        described = ResultObject(
            key=keys.result(job), sha256=_sha256(data), size=len(data), content_type="application/json"
        )
        yield _keep(job, "result.json", described, out / job / "result.json", overwrite, lambda: data)


def _destination(out: Path, job: str, name: str) -> Path:
    if name == IMAGE:
        return out / f"{job}.png"
    keys.attempt_object(job, 0, name)  # refuses a name that would leave the folder
    return out / job / name


def _keep(job: str, name: str, stored: ResultObject, path: Path, overwrite: bool, get: Callable[[], bytes]) -> Fetched:
    """Put an object's bytes, got by `get` unless they are there already, into the file `path`."""
    try:
        if path.exists():
            if path.is_file() and _sha256(path.read_bytes()) == stored.sha256:
                return Fetched(job, name, path, stored.size, already_there=True)
            if not overwrite:
                raise FetchRefused(
                    f"{path} exists and is another file than {stored.key}", hint="give another --out, or --overwrite"
                )
        data = get()
        if _sha256(data) != stored.sha256:
            raise FetchRefused(f"{stored.key} does not have the checksum that its result names; it was not kept")
        _write(path, data)
    except OSError as error:
        raise FetchRefused(f"{path} cannot be written: {error.strerror}", hint="give another --out") from error
    return Fetched(job, name, path, stored.size, already_there=False)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
