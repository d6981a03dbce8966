"""`farm trace`: how one picture came to be, as a page to look at."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farm.cli.options.naming import job_argument, the_job
from farm.cli.view.opening import open_file
from farm.cli.view.output import json_option, note, plural, print_json, say, size
from farm.client import FarmClient
from farm.host.places import check_file, check_folder, replacing

if TYPE_CHECKING:
    from farm.pages.gather import Seen

_FOLDER = click.Path(path_type=Path, file_okay=False)
_OUT = "--out"


@click.command(
    epilog="""\b
    Examples:
      farm trace 0kz3mw7c9d2f4g5h-0003
      farm trace 0kz3 --out renders --open
      farm trace 0kz3 --json | jq -r .path
    """
)
@job_argument
@click.option(_OUT, type=_FOLDER, default=Path(), metavar="DIR", help="Where to put the page.  [default: here]")
@click.option("--open", "wants_open", is_flag=True, help="Show it in the system's browser.")
@json_option
def trace(name: str, out: Path, wants_open: bool, as_json: bool) -> None:
    """Make one page of how a picture came to be: prompts and tokens, schedule, every step, losses, times.

    DIR/JOB.trace.html is one file that needs no network; an older one is replaced. What it shows of the steps is what
    the job kept: submit with --trace frames, or --trace video. The page of a round trip has its pictures and numbers.
    With --json: {job, path, size, frames, frames_kept, steps, video, left_out}, where left_out says what could not be
    shown.
    """
    check_folder(out, option=_OUT)
    with FarmClient.connect() as farm:
        job = the_job(farm, name)
        path, seen = written(farm, job, out)
    length = path.stat().st_size
    if as_json:
        print_json(_as_json(job, path, length, seen))
    else:
        say(f"{path}  {_described(seen)}, {size(length)}")
    tell_faults(seen.faults)
    if wants_open:
        open_file(path)


def written(farm: FarmClient, job: str, out: Path) -> tuple[Path, Seen]:
    """Write a done job's page into the folder. Returns where it is, and what is on it.

    Raises `WrongState`, `WrongBucket`, `StorageError`, and `InvalidInput` if it cannot be written.
    """
    from farm.pages.job import page

    path = out / f"{job}.trace.html"
    check_file(path, option=_OUT)
    html, seen = page(farm.storage, farm.result(job))
    with replacing(path, option=_OUT) as unfinished:
        unfinished.write_text(html, encoding="utf-8")
    return path, seen


def tell_faults(faults: Iterable[str]) -> None:
    """Say on stderr what of the stored objects is not on the page."""
    for fault in faults:
        note(f"warning: {fault}")


def _described(seen: Seen) -> str:
    if seen.result.spec.is_study:
        return "a round trip"
    if not seen.steps and not seen.frames_kept:
        return "without a trace"
    shown, kept = len(seen.frames), seen.frames_kept
    return f"{plural(len(seen.steps), 'step')}, {plural(shown, 'frame')}{f' of {kept:,}' if shown < kept else ''}"


def _as_json(job: str, path: Path, length: int, seen: Seen) -> dict[str, Any]:
    return {
        "job": job,
        "path": str(path),
        "size": length,
        "frames": len(seen.frames),
        "frames_kept": seen.frames_kept,
        "steps": len(seen.steps),
        "video": seen.video is not None,
        "left_out": seen.faults,
    }
