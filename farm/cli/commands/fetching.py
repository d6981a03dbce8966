"""Fetching the results of many jobs at once, with a bar, and what became of each."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farm.bucket.fetch import Fetched
from farm.cli.view.output import note, plural, size
from farm.errors import FarmError
from farm.host.places import folder_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from farm.client import FarmClient

_AT_ONCE = 8


@dataclass
class Haul:
    """The files that were fetched, and the errors of the jobs that could not be."""

    files: list[Fetched] = field(default_factory=list)
    errors: list[FarmError] = field(default_factory=list)

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {
                "job": file.job,
                "name": file.name,
                "path": str(file.path),
                "size": file.size,
                "already_there": file.already_there,
            }
            for file in self.files
        ]


def fetch_all(farm: FarmClient, jobs: Sequence[str], out: Path, *, everything: bool, overwrite: bool) -> Haul:
    """Bring the results of `jobs` into `out`, several at once. One job's failure does not stop the others."""
    haul = Haul()
    _ = farm.storage  # made here, once, before threads ask for it
    with _there(out), ThreadPoolExecutor(_AT_ONCE) as pool, _bar(len(jobs)) as advance:
        try:
            one = partial(_fetch_one, farm, out=out, everything=everything, overwrite=overwrite)
            for files, error in pool.map(one, jobs):
                haul.files += files
                haul.errors += [error] if error else []
                advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return haul


def tell(haul: Haul, out: Path, *, quiet: bool = False) -> None:
    """Say on stderr what was fetched (unless `quiet`) and what was refused."""
    fresh = [file for file in haul.files if not file.already_there]
    there = len(haul.files) - len(fresh)
    parts = []
    if fresh or not there:
        parts.append(f"fetched {plural(len(fresh), 'file')} ({size(sum(file.size for file in fresh))}) into {out}/")
    if there:
        parts.append(f"{plural(there, 'file')} {'was' if there == 1 else 'were'} already there")
    if haul.files and not quiet:
        note("; ".join(parts))
    for error in haul.errors:
        note(f"farm: {error}")


@contextmanager
def _there(out: Path) -> Iterator[None]:
    """The folder is there while files are put into it, and afterwards if there are any."""
    with ExitStack() as leaving:
        with suppress(OSError):  # each file's own error says so
            leaving.enter_context(folder_for(out))
        yield


def _fetch_one(
    farm: FarmClient, job: str, *, out: Path, everything: bool, overwrite: bool
) -> tuple[list[Fetched], FarmError | None]:
    files: list[Fetched] = []
    try:
        files.extend(farm.fetch(job, out, everything=everything, overwrite=overwrite))
    except FarmError as error:
        return files, error
    return files, None


@contextmanager
def _bar(total: int) -> Iterator[Callable[[], None]]:
    """A bar that vanishes when all is fetched; nothing unless stderr is a terminal."""
    if not sys.stderr.isatty() or total < 2:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("fetching"), BarColumn(24), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)
