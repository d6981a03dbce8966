"""Live progress bars: as many jobs as the screen has room for, the rest as numbers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from farm.bucket.preview import Preview
from farm.cli.view.columns import Columns
from farm.cli.view.output import plural
from farm.cli.view.style import STYLES
from farm.cli.view.summary import tally, values_of
from farm.cli.view.thumbnails import LINES, Thumbnail, how_many, row
from farm.jobs.status import JobStatus, State
from farm.words import one_line

_URGENCY: dict[State, int] = {"running": 0, "failed": 1, "queued": 2, "cancelled": 3, "done": 4}
_BAR_WIDTH, _SHORT_BAR_WIDTH, _WIDE = 24, 10, 100
_LINES_BELOW = 3


@dataclass
class Pace:
    """How fast a job goes: steps a second since it was first seen running."""

    attempt: int
    first_step: int
    first_time: float
    step: int
    time: float

    @property
    def steps_per_second(self) -> float | None:
        elapsed = self.time - self.first_time
        return (self.step - self.first_step) / elapsed if elapsed > 0 and self.step > self.first_step else None


class Bars:
    """A bar for each job, redrawn in place, and below them those jobs that `previews` has a picture of."""

    def __init__(self, console: Console | None = None, *, previews: Callable[[], Mapping[str, Preview]] = dict) -> None:
        self._console = console or Console(highlight=False)
        self._previews = previews
        self._thumbnails: dict[str, Thumbnail] = {}
        self._latest: dict[str, JobStatus] = {}
        self._paces: dict[str, Pace] = {}
        self._started = time.monotonic()
        self._lock = threading.Lock()

    def show(self, status: JobStatus) -> None:
        with self._lock:
            self._latest[status.id] = status
            if status.state == "running":
                self._note_pace(status)

    def showing(self) -> AbstractContextManager[object]:
        return Live(get_renderable=self._screen, console=self._console, refresh_per_second=4)

    def _note_pace(self, status: JobStatus) -> None:
        now = time.monotonic()
        pace = self._paces.get(status.id)
        if pace is None or pace.attempt != status.attempt:
            self._paces[status.id] = Pace(status.attempt, status.step, now, status.step, now)
        else:
            pace.step, pace.time = status.step, now

    def _screen(self) -> Group:
        with self._lock:
            statuses = list(self._latest.values())
        previews = self._previews()
        pictures = self._pictures(previews)
        shown = _most_interesting(statuses, room=max(1, self._room() - (LINES if pictures else 0)))
        rows = Columns(
            *("job", "bar", "step", "state", "pace", "prompt"),
            elastic="prompt",
            dropped=("prompt", "pace", "bar", "step"),
            header=False,
        )
        for status in shown:
            rows.add(*self._row(status))
        if all(status.is_over for status in statuses):
            return Group(rows)  # the last picture stays; what is printed after it sums up
        undrawn = len(previews) - (len(self._thumbnails) if pictures else 0)
        return Group(rows, *pictures, Text(self._summary(statuses, shown, undrawn)))

    def _room(self) -> int:
        return self._console.height - _LINES_BELOW

    def _pictures(self, previews: Mapping[str, Preview]) -> list[RenderableType]:
        """A row of thumbnails, if there is anything to show and room for it beside one bar."""
        if not previews or self._room() <= LINES:
            return []
        some = [previews[job] for job in sorted(previews)[: how_many(self._console.width)]]
        known = self._thumbnails
        self._thumbnails = {
            preview.job: old if (old := known.get(preview.job)) and old.moment == preview.moment else Thumbnail(preview)
            for preview in some
        }
        return [row(list(self._thumbnails.values()))]

    def _row(self, status: JobStatus) -> Iterable[Text | ProgressBar]:
        style = STYLES[status.state]
        pace = self._paces.get(status.id)
        rate = pace.steps_per_second if pace and status.state == "running" else None
        return (
            Text(status.id),
            _bar(status, style, _BAR_WIDTH if self._console.width >= _WIDE else _SHORT_BAR_WIDTH),
            Text(f"{status.step:>{len(str(status.steps))}}/{status.steps}", style=style),
            Text(status.state, style=style),
            Text("  ".join([*([f"{rate:5.1f} steps/s"] if rate else []), *values_of(status.losses)]), style="dim"),
            Text(one_line(status.prompt), style="dim"),
        )

    def _summary(self, statuses: list[JobStatus], shown: list[JobStatus], undrawn: int) -> str:
        """How it goes, and how much of it there is no room for: bars of jobs, and previews."""
        elapsed = time.monotonic() - self._started
        unseen = len(statuses) - len(shown)
        no_room = f"   and {unseen:,} more not shown" if unseen else ""
        no_room += f"   no room for {plural(undrawn, 'preview')}" if undrawn else ""
        return f"{tally(statuses)}   {elapsed:.0f} s{no_room}"


def _bar(status: JobStatus, style: str, width: int) -> ProgressBar:
    return ProgressBar(
        status.steps, status.step, width=width, style="bright_black", complete_style=style, finished_style=style
    )


def _most_interesting(statuses: list[JobStatus], *, room: int) -> list[JobStatus]:
    """As many as there is room for, running and failed ones first, in the order of their ids."""
    if len(statuses) <= room:
        return statuses
    by_urgency = sorted(statuses, key=lambda status: (_URGENCY[status.state], status.id))
    return sorted(by_urgency[:room], key=lambda status: status.id)
