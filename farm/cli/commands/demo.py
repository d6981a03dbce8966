"""`farm demo`: from nothing to a sheet of pictures, with the time that each part took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from farm.cli.view.output import note, plural, say
from farm.cli.view.progress import exit_unless_done, show
from farm.errors import WrongState
from farm.host.places import check_folder

if TYPE_CHECKING:
    from farm.bucket.fetch import Fetched
    from farm.client import FarmClient
    from farm.demo import Timings


@click.command(
    epilog="""\b
    Examples:
      farm demo
      farm demo --keep --out /tmp/renders
    """
)
@click.option("--keep", is_flag=True, help="Leave the farm running.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("renders"),
    show_default=True,
    metavar="DIR",
    help="Where the pictures go.",
)
def demo(keep: bool, out: Path) -> None:
    """See it all: start a local farm, render a dozen jobs of every mode and a grid, and lay them out on sheets.

    A local farm that is already running is used, and left running. Otherwise only DIR and the farm's home stay.
    """
    from farm import demo as demonstration
    from farm import settings, stack
    from farm.client import FarmClient

    check_folder(out, option="--out")
    home, timings = settings.home(), demonstration.Timings()
    was_running = stack.status(home) is not None
    say(f"using the farm in {home}" if was_running else f"starting a farm in {home}")
    with demonstration.local_farm(home, timings, keep=keep) as where, FarmClient(where) as farm:
        with timings.of("submission"):
            demonstration.keep_lora(farm)
            submission = farm.submit(demonstration.requests())
            grid = farm.submit(demonstration.grid())
        jobs = [*submission.jobs, *grid.jobs]
        say(f"{submission.batch}  {plural(len(submission.jobs), 'job')}")
        say(f"{grid.batch}  {plural(len(grid.jobs), 'job')}, a grid")
        try:
            statuses = show(demonstration.timed_watch(farm, jobs, timings), jobs)
        except KeyboardInterrupt:
            note("", "stopping")
            farm.cancel([submission.batch, grid.batch])  # else the next farm of this home would take up the jobs again
            raise
        done = [status.id for status in statuses if status.state == "done" and status.id in submission.jobs]
        with timings.of("fetch"):
            files = demonstration.fetch_all(farm, done, out)
        with timings.of("sheets and page"):
            places = _drawn(farm, done, grid.jobs, files, out)
    _tell(places, timings)
    if was_running or keep:
        say("", 'The farm stays up: farm submit txt2img "a red apple" --wait --out renders; farm down stops it.')
        if door := stack.wait_for_door(home):
            say(f"In a browser: {door}")
    else:
        say("", "'farm up' starts it again, and tells how a browser comes in, to submit, watch and look at all of it.")
    exit_unless_done(statuses)


def _drawn(
    farm: FarmClient, done: Sequence[str], grid: Sequence[str], files: Sequence[Fetched], out: Path
) -> Sequence[tuple[str, Path]]:
    """What is made of the pictures, and where everything is."""
    from farm import demo as demonstration
    from farm.cli.commands import tables, trace

    places: list[tuple[str, Path]] = []
    if files:
        places += [("sheet", demonstration.write_sheet(files, out)), ("pictures", out / "*.png")]
    places += [("video", file.path) for file in files if file.name.endswith(".mp4")]
    places += [("trace", trace.written(farm, job, out)[0]) for job in done if demonstration.is_traced(farm, job)]
    try:
        tables.save_grid(farm, grid, out / demonstration.GRID)
        places.append(("grid", out / demonstration.GRID))
    except WrongState:  # none of its jobs is done, which the exit code tells
        pass
    return places


def _tell(places: Sequence[tuple[str, Path]], timings: Timings) -> None:
    say("", *(f"  {label:<9}{path}" for label, path in places))
    say("", *(f"  {part:<22}{seconds:6.1f} s" for part, seconds in timings.seconds.items()))
