"""`farm demo`: from nothing to a sheet of pictures, with the time that each part took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from farm.cli.view.output import note, plural, say
from farm.cli.view.progress import exit_unless_done, show
from farm.host.places import check_folder

if TYPE_CHECKING:
    from farm.bucket.fetch import Fetched
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
    """See it all: start a local farm, render a dozen jobs of every mode, fetch them, and lay them out on a sheet.

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
            submission = farm.submit(demonstration.requests())
        say(f"{submission.batch}  {plural(len(submission.jobs), 'job')}")
        try:
            statuses = show(demonstration.timed_watch(farm, submission.jobs, timings), submission.jobs)
        except KeyboardInterrupt:
            note("", "stopping")
            farm.cancel([submission.batch])  # else the next farm of this home would take up the jobs again
            raise
        with timings.of("fetch"):
            files = demonstration.fetch_all(farm, [s.id for s in statuses if s.state == "done"], out)
        with timings.of("sheet"):
            sheet = demonstration.write_sheet(files, out) if files else None
    _tell(files, sheet, out, timings)
    if was_running or keep:
        say("", 'The farm stays up: farm submit txt2img "a red apple" --wait --out renders; farm down stops it.')
    exit_unless_done(statuses)


def _tell(files: Sequence[Fetched], sheet: Path | None, out: Path, timings: Timings) -> None:
    say("", *(f"  {label:<9}{path}" for label, path in _places(files, sheet, out)))
    say("", *(f"  {part:<22}{seconds:6.1f} s" for part, seconds in timings.seconds.items()))


def _places(files: Sequence[Fetched], sheet: Path | None, out: Path) -> Sequence[tuple[str, Path]]:
    videos = [("video", file.path) for file in files if file.name.endswith(".mp4")]
    sheets = [("sheet", sheet)] if sheet else []
    return [*sheets, ("pictures", out / "*.png"), *videos]
