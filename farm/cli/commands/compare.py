"""`farm compare`: several jobs side by side, as a page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farm.cli.commands.trace import tell_faults
from farm.cli.options.naming import jobs_argument
from farm.cli.view.opening import open_file
from farm.cli.view.output import json_option, plural, print_json, say, size
from farm.client import FarmClient
from farm.errors import InvalidInput
from farm.host.places import check_file, replacing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from farm.pages.gather import Seen

_FILE = click.Path(path_type=Path, dir_okay=False)
_OUT = "--out"
_DEFAULT = Path("compare.html")


@click.command(
    epilog="""\b
    Examples:
      farm compare 0kz3
      farm compare 0kz3mw7c9d2f4g5h-0000 0kz3mw7c9d2f4g5h-0003 --out scales.html --open
      farm compare 0kz3 0m18 --json | jq -r .path
    """
)
@jobs_argument()
@click.option(_OUT, type=_FILE, default=_DEFAULT, show_default=True, metavar="FILE", help="Where to put the page.")
@click.option("--open", "wants_open", is_flag=True, help="Show it in the system's browser.")
@json_option
def compare(names: tuple[str, ...], out: Path, wants_open: bool, as_json: bool) -> None:
    """Make one page of two to eight jobs side by side: in what they differ, pictures, steps at like noise, curves.

    FILE is one file that needs no network; an older one is replaced. A batch means its jobs. What it shows of the
    steps is what the jobs kept: submit with --trace frames. With --json: {path, size, jobs, left_out}, where jobs is
    a list of {job, letter, frames, frames_kept, steps}, and left_out says what could not be shown.
    """
    from farm.pages.compare import letters

    if out.suffix.lower() != ".html":
        raise InvalidInput(f"{out} does not end in .html", field=_OUT)
    check_file(out, option=_OUT)
    with FarmClient.connect() as farm:
        seen = _gathered(farm, names)
    _write(seen, out)
    length = out.stat().st_size
    faults = [
        f"{letter}: {fault}" for letter, one in zip(letters(len(seen)), seen, strict=True) for fault in one.faults
    ]
    if as_json:
        jobs = [_as_json(letter, one) for letter, one in zip(letters(len(seen)), seen, strict=True)]
        print_json({"path": str(out), "size": length, "jobs": jobs, "left_out": faults})
    else:
        frames = plural(sum(len(one.frames) for one in seen), "frame")
        say(f"{out}  {plural(len(seen), 'job')}, {frames}, {size(length)}")
    tell_faults(faults)
    if wants_open:
        open_file(out)


def _gathered(farm: FarmClient, names: tuple[str, ...]) -> list[Seen]:
    """What the jobs that are meant left, all of which must be done, and few enough to be told apart."""
    from farm.pages.compare import FEWEST_JOBS, MOST_JOBS
    from farm.pages.gather import gather

    jobs = farm.resolve(names)
    if not FEWEST_JOBS <= len(jobs) <= MOST_JOBS:
        raise InvalidInput(
            f"a comparison takes {FEWEST_JOBS} to {MOST_JOBS} jobs, not {len(jobs):,}",
            field="JOB",
            hint=f"name more of them, or a batch of up to {MOST_JOBS}"
            if len(jobs) < FEWEST_JOBS
            else f"name {MOST_JOBS} of them, such as {jobs[0]}",
        )
    results = [farm.result(job) for job in jobs]
    return [gather(farm.storage, result, sharing=len(results)) for result in results]


def _write(seen: Sequence[Seen], out: Path) -> None:
    from farm.pages.compare import page

    html = page(seen)
    with replacing(out, option=_OUT) as unfinished:
        unfinished.write_text(html, encoding="utf-8")


def _as_json(letter: str, seen: Seen) -> dict[str, Any]:
    return {
        "job": seen.result.job,
        "letter": letter,
        "frames": len(seen.frames),
        "frames_kept": seen.frames_kept,
        "steps": len(seen.steps),
    }
