"""`farm fetch` and `farm sheet`: bring pictures here, and lay them out on one page."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from farm.cli.commands.pictures import name_unfinished, named_pictures, naming_no_option
from farm.cli.options.naming import jobs_argument
from farm.cli.options.once import AXIS, Once
from farm.cli.view.output import json_option, note, note_unreadable, plural, print_json, say
from farm.cli.view.progress import NOT_ALL_DONE, follow
from farm.cli.view.summary import tell_warnings
from farm.client import FarmClient
from farm.errors import InvalidInput
from farm.host.places import check_file, check_folder, replacing

if TYPE_CHECKING:
    from farm.jobs.status import JobStatus
    from farm.pictures.lettering import Lettering

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_NAMED_SIGNS = 10
_axis = partial(click.option, cls=Once, instead=AXIS, metavar="FIELD")


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
    name_unfinished([status for status in statuses if status.state != "done"])
    if haul.errors:
        raise click.exceptions.Exit(haul.errors[0].exit_code)
    if len(done) < len(jobs):
        raise click.exceptions.Exit(NOT_ALL_DONE)


@click.command(
    epilog="""\b
    Examples:
      farm sheet 0kz3 --out otters.png
      farm sheet renders/*.png --out sheet.png --columns 4
      farm sheet 0kz3 --x guidance --y steps --html sheet.html
    """
)
@click.argument("names", metavar="JOB|BATCH|FILE…", nargs=-1, required=True)
@click.option(
    "--out", type=_FILE, default=Path("sheet.png"), show_default=True, metavar="FILE", help="The sheet, a PNG."
)
@click.option("--columns", type=click.IntRange(1, 100), metavar="N", help="Pictures in a row.  [default: about square]")
@click.option("--labels/--no-labels", default=True, help="Write prompt, mode and seed beneath.  [default: labels]")
@_axis("--x", help="A column for each value of this field, such as guidance or losses.0.scale.")
@_axis("--y", help="With --x: a row for each value of this field.")
@_axis("--z", help="With --x: a page for each value of this field, one below the other.")
@click.option("--html", type=_FILE, metavar="FILE", help="Of a sheet with axes: a page as well, in which cells open.")
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
def sheet(
    names: tuple[str, ...],
    out: Path,
    columns: int | None,
    labels: bool,
    html: Path | None,
    overwrite: bool,
    **axes: str | None,
) -> None:
    """Make one labelled sheet of many pictures: of jobs, batches, or files.

    With --x the pictures stand where their values meet. A batch of 'farm submit grid' knows its axes: --columns lays
    it out like any other. What is not done yet, or failed, has an empty cell that says so.
    """
    from farm.cli.commands import tables
    from farm.pictures.lettering import Lettering

    _check_target(out, ".png", option="--out", overwrite=overwrite)
    if html:
        _check_target(html, ".html", option="--html", overwrite=overwrite)
    fields, lettering = tables.fields_of(axes), Lettering()
    if fields and columns:
        raise InvalidInput("a sheet with axes has as many as there are values", field="--columns", hint="leave it out")
    if fields or (columns is None and tables.are_of_a_grid(names)):
        with ExitStack() as connections:
            farm = cache(lambda: connections.enter_context(FarmClient.connect()))
            table = tables.table_of(tables.sources(names, farm), fields, with_files=html is not None)
        say(tables.save(table, out, lettering, option="--out"))
        if html:
            say(tables.save_page(table, html, option="--html"))
    elif html:
        raise InvalidInput("needs a sheet with axes", field="--html", hint="add --x FIELD, and --y FIELD")
    else:
        say(_contact_sheet(names, out, lettering, columns=columns, labels=labels))
    _tell_missing(lettering.missing)


def _contact_sheet(names: Sequence[str], out: Path, lettering: Lettering, *, columns: int | None, labels: bool) -> str:
    """Write a sheet without axes. Returns a line for people."""
    from farm.pictures.sheet import contact_sheet, tile_of

    with naming_no_option():
        tiles = [tile_of(data, name=name) for name, data in named_pictures(names)]
    page = contact_sheet(tiles, columns=columns, labels=labels, lettering=lettering)
    with replacing(out, option="--out") as unfinished:
        page.save(unfinished, "PNG")
    return f"{out}  {plural(len(tiles), 'picture')}, {page.width}×{page.height} pixels"


def _check_target(file: Path, suffix: str, *, option: str, overwrite: bool) -> None:
    """Raise `InvalidInput` unless a file of this kind can be written there."""
    if file.suffix.lower() != suffix:
        raise InvalidInput(f"{file} does not end in {suffix}", field=option)
    if file.exists() and not overwrite:
        raise InvalidInput(f"{file} already exists", field=option, hint="add --overwrite to replace it")
    check_file(file, option=option)


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
