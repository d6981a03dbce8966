"""Finished pictures that wait on this machine's disk for a bucket that does not take them.

`<home>/spool/<job>/` holds an attempt's files and `entry.json`, and appears whole or not at all. It outlives the
worker: whichever worker of this machine claims the job next uploads the picture instead of rendering it again.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from farm import keys
from farm.bucket.results import ModelUsed
from farm.jobs.report import RenderReport
from farm.jobs.spec import ResolvedSpec
from worker.results.finished import Artifact, Finished

_log = logging.getLogger(__name__)

MAX_BYTES = 2**30
"""All that waits on one machine together; beyond it, pictures wait in memory."""

_KEPT_SECONDS = 7 * 24 * 3600.0
_ENTRY = "entry.json"


class _File(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    content_type: str
    size: int


class _Entry(BaseModel):
    """What `entry.json` says. `asked` is the job's spec as the ledger has it, `spec` what was rendered."""

    model_config = ConfigDict(frozen=True)

    asked: str
    spec: ResolvedSpec
    model: ModelUsed
    dtype: str
    warnings: tuple[str, ...]
    timings: dict[str, float]
    files: tuple[_File, ...]
    report: RenderReport = RenderReport()


class Spool:
    """The spool of one machine, shared by its workers: only the one that has claimed a job touches its entry."""

    def __init__(self, folder: Path, *, limit: int = MAX_BYTES) -> None:
        self._folder = folder
        self._limit = limit

    def keep(self, job: str, asked: str, finished: Finished) -> Finished:
        """Put what a job has made on disk. Returns it as read from there, or as it was if the disk cannot take it."""
        files = [(artifact, artifact.read()) for artifact in finished.artifacts]
        entry = _Entry(
            asked=asked,
            spec=finished.spec,
            model=finished.model,
            dtype=finished.dtype,
            warnings=finished.warnings,
            timings=dict(finished.timings),
            files=tuple(_File(name=a.name, content_type=a.content_type, size=len(data)) for a, data in files),
            report=finished.report,
        )
        try:
            if self._bytes_kept() + sum(len(data) for _, data in files) > self._limit:
                _log.warning("job %s waits in memory: the spool holds %d MiB already", job, self._limit // 2**20)
                return finished
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial = Path(tempfile.mkdtemp(prefix=".", dir=self._folder))
            try:
                for artifact, data in files:
                    _write(partial / artifact.name, data)
                _write(partial / _ENTRY, entry.model_dump_json().encode())
                self.remove(job)
                partial.rename(self._entry(job))
            except OSError:
                shutil.rmtree(partial, ignore_errors=True)
                raise
        except OSError as error:
            _log.warning("job %s waits in memory: the spool cannot be written: %s", job, error)
            return finished
        return replace(finished, artifacts=self._artifacts(job, entry))

    def find(self, job: str, asked: str) -> Finished | None:
        """What an earlier attempt at this very job has made here and could not upload."""
        try:
            entry = _Entry.model_validate_json((self._entry(job) / _ENTRY).read_bytes())
            sizes = [(self._entry(job) / file.name).stat().st_size for file in entry.files]
        except (OSError, ValidationError):
            return None
        if entry.asked != asked or sizes != [file.size for file in entry.files]:
            return None
        return Finished(
            spec=entry.spec,
            model=entry.model,
            dtype=entry.dtype,
            warnings=entry.warnings,
            timings=entry.timings,
            artifacts=self._artifacts(job, entry),
            report=entry.report,
        )

    def remove(self, job: str) -> None:
        """Forget what was kept of a job, if anything was."""
        shutil.rmtree(self._entry(job), ignore_errors=True)

    def sweep(self, is_over: Callable[[str], bool]) -> None:
        """Remove what nobody will upload: entries of jobs that are over, and those older than a week."""
        oldest = time.time() - _KEPT_SECONDS
        for folder in self._folders():
            job = folder.name
            try:
                is_stale = folder.stat().st_mtime < oldest
            except OSError:  # another worker was faster
                continue
            if is_stale or (keys.is_job_id(job) and is_over(job)):
                _log.info("removed %s from the spool", job)
                shutil.rmtree(folder, ignore_errors=True)

    def _entry(self, job: str) -> Path:
        return self._folder / keys.job_id(job)

    def _artifacts(self, job: str, entry: _Entry) -> tuple[Artifact, ...]:
        return tuple(Artifact(file.name, file.content_type, self._entry(job) / file.name) for file in entry.files)

    def _folders(self) -> Iterator[Path]:
        if self._folder.is_dir():
            yield from (path for path in self._folder.iterdir() if path.is_dir())

    def _bytes_kept(self) -> int:
        return sum(path.stat().st_size for folder in self._folders() for path in folder.rglob("*") if path.is_file())


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
