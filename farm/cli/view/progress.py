"""Jobs on their way: live bars in a terminal, plain lines in a pipe, JSON lines for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from farm.cli.view.output import note, plural, print_json, say
from farm.cli.view.summary import short_names, tally, tell_warnings
from farm.jobs.status import JobStatus

if TYPE_CHECKING:
    from farm.bucket.preview import Preview
    from farm.client import FarmClient

NOT_ALL_DONE = 3
INTERRUPTED = 130


class View(Protocol):
    """Something that shows statuses as they come."""

    def show(self, status: JobStatus) -> None: ...

    def showing(self) -> AbstractContextManager[object]: ...


def follow(
    farm: FarmClient,
    jobs: Sequence[str],
    *,
    as_json: bool = False,
    previews: bool = False,
    previews_to: Path | None = None,
    said: Collection[str] = (),
) -> Sequence[JobStatus]:
    """Show the jobs until all are over; their last statuses, in order. Why they wait in vain is said once, on stderr,
    unless it was `said` before.

    With `previews` a terminal shows how they look on the way, and `previews_to` is a folder that gets this as files.
    On Ctrl-C the jobs go on: this says how to follow or cancel them, and exits with 130.
    """
    try:
        changes = farm.watch(jobs, on_wait=lambda why: note(f"warning: {why}"), said=said)
        if not previews and previews_to is None:
            return show(changes, jobs, as_json=as_json)
        from farm.cli.view.looking import Looking

        with Looking(farm, previews_to) as looking:
            seen = (lambda: looking.previews) if previews else dict
            return show(looking.following(changes), jobs, as_json=as_json, previews=seen)
    except KeyboardInterrupt:
        _say_goodbye(jobs)
        raise click.exceptions.Exit(INTERRUPTED) from None


def show(
    changes: Iterable[JobStatus],
    jobs: Sequence[str],
    *,
    as_json: bool = False,
    previews: Callable[[], Mapping[str, Preview]] = dict,
) -> Sequence[JobStatus]:
    """Show the changes until they end; the jobs' last statuses, in order. A terminal shows `previews` as well."""
    view = _view(as_json, previews)
    latest: dict[str, JobStatus] = {}
    started = time.monotonic()
    with view.showing():
        for status in changes:
            latest[status.id] = status
            view.show(status)
    statuses = [latest[job] for job in jobs if job in latest]
    if not as_json:
        _conclude(statuses, time.monotonic() - started)
    return statuses


def exit_unless_done(statuses: Iterable[JobStatus], *, unknown: int = 0) -> None:
    """Exit with 3 if a job failed or was cancelled, or if there are some of which nobody knows."""
    if unknown or any(status.state != "done" for status in statuses):
        raise click.exceptions.Exit(NOT_ALL_DONE)


class JsonLines:
    """One JSON object a change."""

    def show(self, status: JobStatus) -> None:
        print_json(status.model_dump(mode="json"), indent=None)

    def showing(self) -> AbstractContextManager[object]:
        return nullcontext()


class Lines:
    """One line for each new state, and at each quarter of the steps."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, int]] = {}

    def show(self, status: JobStatus) -> None:
        quarter = 4 * status.step // status.steps if status.state == "running" else 0
        if self._said.get(status.id) != (status.state, quarter):
            self._said[status.id] = (status.state, quarter)
            say(f"{status.id}  {status.state}" + (f"  {status.step}/{status.steps}" if quarter else ""))

    def showing(self) -> AbstractContextManager[object]:
        return nullcontext()


def _view(as_json: bool, previews: Callable[[], Mapping[str, Preview]]) -> View:
    if as_json:
        return JsonLines()
    if not sys.stdout.isatty():
        return Lines()
    from farm.cli.view.bars import Bars

    return Bars(previews=previews)


def _say_goodbye(jobs: Sequence[str]) -> None:
    go_on = "the job goes on" if len(jobs) == 1 else f"the {plural(len(jobs), 'job')} go on"
    note("", f"farm: not watching any more; {go_on}")
    for what, command in (("follow", "watch"), ("fetch", "fetch"), ("cancel", "cancel")):
        note(f"  {what:<8}farm {command} {short_names(jobs)}" + (" --out renders" if command == "fetch" else ""))


def _conclude(statuses: Sequence[JobStatus], seconds: float) -> None:
    note(f"{tally(statuses)} in {seconds:.1f} s")
    tell_warnings(statuses)
    for status in statuses:
        if status.error:
            note(f"  {status.id} failed: {status.error.message}")
