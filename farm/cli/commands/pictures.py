"""The pictures that names on a command line mean: those of jobs and batches in the bucket, and files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from farm import keys
from farm.cli.view.output import note, plural
from farm.errors import InvalidInput, WrongState

if TYPE_CHECKING:
    from farm.client import FarmClient
    from farm.jobs.status import JobStatus

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_NAMED_UNFINISHED = 5


def named_pictures(names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """The name and the bytes of each file, and of each done job that the other names mean, in the order given.

    Jobs that are not done are named on stderr. Raises `WrongState` where none is, `InvalidInput` for a file that
    cannot be read.
    """
    from farm.client import FarmClient

    for are_files, group in groupby(names, key=means_file):
        if are_files:
            yield from ((name, read_file(name)) for name in group)
        else:
            with FarmClient.connect() as farm:
                for status in _done(farm.status(wanted := list(group)), wanted):
                    yield f"{status.id}.png", read_job(farm, status.id)


def means_file(name: str) -> bool:
    """Whether a name is that of a file: no job's has a dot or a slash in it."""
    return name.lower().endswith(_SUFFIXES) or "/" in name or Path(name).is_file()


def read_file(name: str) -> bytes:
    """A picture's file, as far as one may be long. Raises `InvalidInput`."""
    from farm.pictures.images import MAX_BYTES

    try:
        with Path(name).open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        job = keys.id_in(Path(name).name)
        raise InvalidInput(f"{name} cannot be read: {error.strerror}", hint=job and f"did you mean '{job}'?") from error


def read_job(farm: FarmClient, job: str) -> bytes:
    """A done job's picture, checked by its SHA-256. Raises `WrongState`, `FetchRefused`, `ObjectMissing`,
    `ObjectDamaged`, `ObjectTooLarge`, `StorageError`."""
    from farm.bucket.fetch import read

    return read(farm.storage, farm.result(job).picture)


def _done(statuses: Sequence[JobStatus], names: Sequence[str]) -> Sequence[JobStatus]:
    """Those that are done; the others are named on stderr. Raises `WrongState` if none is."""
    found = [status for status in statuses if status.state == "done"]
    if not found:
        raise WrongState("none of these jobs is done", hint=f"follow them with 'farm watch {' '.join(names)}'")
    name_unfinished([status for status in statuses if status.state != "done"])
    return found


def name_unfinished(statuses: Sequence[JobStatus]) -> None:
    """Say on stderr in which state these jobs are, and why."""
    for status in statuses[:_NAMED_UNFINISHED]:
        why = f": {status.error.message}" if status.error else ""
        note(f"farm: {status.id} is {status.state}{why}")
    if len(statuses) > _NAMED_UNFINISHED:
        note(f"farm: and {plural(len(statuses) - _NAMED_UNFINISHED, 'job')} more")


@contextmanager
def naming_no_option() -> Iterator[None]:
    """Pictures are read as init pictures are, and their errors name the field `init`, which nobody gave."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(error.reason, hint=error.hint) from error
