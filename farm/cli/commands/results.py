"""`farm fetch` and `farm sheet`: bring pictures here, and lay them out on one page."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from farm.cli.options.naming import jobs_argument
from farm.cli.view.output import json_option, note, note_unreadable, plural, print_json, say
from farm.cli.view.progress import NOT_ALL_DONE, follow
from farm.cli.view.summary import tell_warnings
from farm.client import FarmClient
from farm.errors import InvalidInput, WrongState
from farm.host.places import check_file, check_folder, replacing

if TYPE_CHECKING:
    from farm.jobs.status import JobStatus
    from farm.pictures.sheet import Tile

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_NAMED_UNFINISHED = 5
_NAMED_SIGNS = 10


@click.command(
    epilog="""\b
    Examples:
      farm fetch 0kz3 --out renders
      farm fetch 0kz3mw7c9d2f4g5h-0003 --all
      farm fetch 0kz3 --wait --json | jq -r '.[].path'
    """
)
@jobs_argument()
@click.option("--out", type=_FOLDER, default=Path(), metavar="DIR", help="Where to put files.  [default: here]")
@click.option("--all", "everything", is_flag=True, help="Traces, frames, videos and result.json too, in DIR/JOB/.")
@click.option("--overwrite", is_flag=True, help="Replace other files of the same names.")
@click.option("--wait", is_flag=True, help="First follow the jobs until they are over.")
@json_option
def fetch(names: tuple[str, ...], out: Path, everything: bool, overwrite: bool, wait: bool, as_json: bool) -> None:
    """Bring pictures and traces here, checked by their SHA-256.

    A picture becomes DIR/JOB.png. What is already here is not fetched again, and no other file is overwritten. Exit
    code 3 if some jobs are not done. With --json: a list of {job, name, path, size, already_there}.
    """
    from farm.cli.commands import fetching

    check_folder(out, option="--out")
    with FarmClient.connect() as farm:
        jobs = farm.resolve(names)
        statuses = _awaited(farm, jobs, quiet=as_json) if wait else farm.ledger.get_many(jobs)
        note_unreadable(len(jobs) - len(statuses))
        done = [status.id for status in statuses if status.state == "done"]
        haul = fetching.fetch_all(farm, done, out, everything=everything, overwrite=overwrite)
    if as_json:
        print_json(haul.as_json())
    fetching.tell(haul, out, quiet=as_json)
    if as_json or not wait:  # else they were named when all was over
        tell_warnings(statuses)
    _name_unfinished([status for status in statuses if status.state != "done"])
    if haul.errors:
        raise click.exceptions.Exit(haul.errors[0].exit_code)
    if len(done) < len(jobs):
        raise click.exceptions.Exit(NOT_ALL_DONE)


@click.command(
    epilog="""\b
    Examples:
      farm sheet 0kz3 --out otters.png
      farm sheet renders/*.png --out sheet.png --columns 4
    """
)
@click.argument("names", metavar="JOB|BATCH|FILE…", nargs=-1, required=True)
@click.option(
    "--out", type=_FILE, default=Path("sheet.png"), show_default=True, metavar="FILE", help="The sheet, a PNG."
)
@click.option("--columns", type=click.IntRange(1, 100), metavar="N", help="Pictures in a row.  [default: about square]")
@click.option("--labels/--no-labels", default=True, help="Write prompt, mode and seed beneath.  [default: labels]")
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
def sheet(names: tuple[str, ...], out: Path, columns: int | None, labels: bool, overwrite: bool) -> None:
    """Make one labelled sheet of many pictures: of jobs, batches, or files."""
    from farm.pictures.lettering import Lettering
    from farm.pictures.sheet import contact_sheet

    if out.suffix.lower() != ".png":
        raise InvalidInput(f"{out} does not end in .png", field="--out")
    if out.exists() and not overwrite:
        raise InvalidInput(f"{out} already exists", field="--out", hint="add --overwrite to replace it")
    check_file(out, option="--out")
    tiles = list(_tiles(names))
    lettering = Lettering()
    page = contact_sheet(tiles, columns=columns, labels=labels, lettering=lettering)
    with replacing(out, option="--out") as unfinished:
        page.save(unfinished, "PNG")
    say(f"{out}  {plural(len(tiles), 'picture')}, {page.width}×{page.height} pixels")
    _tell_missing(lettering.missing)


def _tell_missing(signs: Collection[str]) -> None:
    if signs:
        some = " ".join(sorted(signs)[:_NAMED_SIGNS])
        note(
            f"warning: no font here has {plural(len(signs), 'character')} of the captions, such as {some}",
            "  install fonts for these scripts, such as Debian's packages fonts-noto-core and fonts-noto-cjk",
        )


def _awaited(farm: FarmClient, jobs: Sequence[str], *, quiet: bool) -> Sequence[JobStatus]:
    if not quiet:
        return follow(farm, jobs)
    latest = {status.id: status for status in farm.watch(jobs)}
    return [latest[job] for job in jobs if job in latest]


def _name_unfinished(statuses: Sequence[JobStatus]) -> None:
    for status in statuses[:_NAMED_UNFINISHED]:
        why = f": {status.error.message}" if status.error else ""
        note(f"farm: {status.id} is {status.state}{why}")
    if len(statuses) > _NAMED_UNFINISHED:
        note(f"farm: and {plural(len(statuses) - _NAMED_UNFINISHED, 'job')} more")


def _tiles(names: Sequence[str]) -> Iterator[Tile]:
    """A tile for each file, and for each done job that the other names mean, in the order given."""
    for are_files, group in groupby(names, key=_means_file):
        if are_files:
            yield from map(_tile_of_file, group)
        else:
            with FarmClient.connect() as farm:
                yield from _tiles_of_jobs(farm, list(group))


def _tile_of_file(name: str) -> Tile:
    from farm.pictures.images import MAX_BYTES
    from farm.pictures.sheet import tile_of

    try:
        with Path(name).open("rb") as file:
            return tile_of(file.read(MAX_BYTES + 1), name=name)
    except OSError as error:
        raise InvalidInput(f"{name} cannot be read: {error.strerror}") from error
    except InvalidInput as error:  # of the field `init`, which nobody gave
        raise InvalidInput(error.reason, hint=error.hint) from error


def _tiles_of_jobs(farm: FarmClient, names: Sequence[str]) -> Iterator[Tile]:
    from farm.bucket.fetch import IMAGE
    from farm.pictures.images import MAX_BYTES
    from farm.pictures.sheet import tile_of

    statuses = farm.status(names)
    done = [status for status in statuses if status.state == "done"]
    if not done:
        raise WrongState("none of these jobs is done", hint=f"follow them with 'farm watch {' '.join(names)}'")
    _name_unfinished([status for status in statuses if status.state != "done"])
    for status in done:
        image = farm.result(status.id).objects[IMAGE]
        yield tile_of(farm.storage.get(image.key, limit=MAX_BYTES), name=f"{status.id}.png")


def _means_file(name: str) -> bool:
    return name.lower().endswith(_PICTURE_SUFFIXES) or "/" in name or Path(name).is_file()
