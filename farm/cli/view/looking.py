"""Looking at jobs while they are followed: fetches their previews in the background, and keeps them as files on demand.

A preview that cannot be fetched never ends the following: what was in the way is reported at its end.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from farm.bucket.preview import Preview
from farm.cli.view.output import note
from farm.errors import FarmError, InvalidInput
from farm.host.places import check_folder, folder_for, replacing
from farm.jobs.status import JobStatus

if TYPE_CHECKING:
    from farm.client import FarmClient

AT_ONCE = 16
"""This many jobs are looked at, the running ones first: a batch may have thousands."""
_EVERY_SECONDS = 0.5
_OPTION = "--previews-to"
_AS_FILES = "--previews-to DIR keeps them as files"
_TIMEOUT_SECONDS = 1.0


class Looking:
    """A context in which jobs are looked at. With `folder`, their previews are files there until they are over."""

    def __init__(self, farm: FarmClient, folder: Path | None) -> None:
        self._farm = farm
        self._folder = folder
        self._open: dict[str, JobStatus] = {}
        self._newest: dict[str, Preview] = {}
        self._trouble: FarmError | OSError | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._while_looking = contextlib.ExitStack()
        self._thread = threading.Thread(target=self._run, name="looking", daemon=True)

    def __enter__(self) -> Self:
        _ = self._farm.ledger, self._farm.storage  # made here, once, before threads ask for them
        if self._folder is not None:
            with contextlib.suppress(OSError):  # reported with the first preview
                self._while_looking.enter_context(folder_for(self._folder))  # a viewer can open it from now on
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(_TIMEOUT_SECONDS)
        with self._lock:
            for job in list(self._newest):
                self._forget(job)
        self._while_looking.close()
        if self._trouble and error is None:
            note(f"previews were not up to date: {self._trouble}")

    def following(self, changes: Iterable[JobStatus]) -> Iterator[JobStatus]:
        """The same changes, of which this learns what there is to look at."""
        for status in changes:
            with self._lock:
                self._open[status.id] = status
                if status.is_over:
                    del self._open[status.id]
                    self._forget(status.id)
            yield status

    @property
    def previews(self) -> Mapping[str, Preview]:
        """The newest preview of each job that is looked at and has one, by id."""
        with self._lock:
            return dict(self._newest)

    def _run(self) -> None:
        while not self._over.wait(_EVERY_SECONDS):
            jobs = self._worth_a_look()
            try:
                for preview in self._farm.previews(jobs).values() if jobs else ():
                    self._take(preview)
            except (FarmError, OSError) as error:
                self._trouble = error

    def _worth_a_look(self) -> list[str]:
        with self._lock:
            by_state = sorted(self._open.values(), key=lambda status: (status.state != "running", status.id))
        return [status.id for status in by_state[:AT_ONCE]]

    def _take(self, preview: Preview) -> None:
        with self._lock:
            known = self._newest.get(preview.job)
            if preview.job not in self._open or self._over.is_set() or (known and known.moment == preview.moment):
                return
            self._newest[preview.job] = preview
            if self._folder is not None:
                _write(preview, _file(self._folder, preview.job))

    def _forget(self, job: str) -> None:
        if self._newest.pop(job, None) and self._folder is not None:
            with contextlib.suppress(OSError):
                _file(self._folder, job).unlink(missing_ok=True)


def check(previews: bool, previews_to: Path | None, *, as_json: bool) -> None:
    """Raise `InvalidInput` if previews cannot be shown or kept as asked."""
    if previews and as_json:
        raise InvalidInput("pictures are not JSON", field="--previews", hint=_AS_FILES)
    if previews and not _draws_colors():
        raise InvalidInput("pictures need a terminal with colours", field="--previews", hint=_AS_FILES)
    if previews_to is not None:
        check_folder(previews_to, option=_OPTION)


def _draws_colors() -> bool:
    from rich.console import Console

    console = Console()
    return sys.stdout.isatty() and console.color_system is not None and not console.no_color


def _file(folder: Path, job: str) -> Path:
    return folder / f"{job}.preview.png"


def _write(preview: Preview, path: Path) -> None:
    """Replace a file whole: an image viewer may be reading it."""
    with replacing(path, option=_OPTION) as unfinished:
        preview.enlarged().save(unfinished, "PNG")
