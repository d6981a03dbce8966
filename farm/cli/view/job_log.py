"""What workers logged of a job, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from farm.cli.view.output import plural
from farm.jobs.status import JobStatus, State

if TYPE_CHECKING:
    from farm.bucket.job_log import AttemptLog

_NO_LOG: Mapping[State, str] = {
    "queued": "none: it waits to be rendered",
    "running": "none yet: what is logged is told when the attempt ends",
    "done": "none: it was done without anything to tell",
    "cancelled": "none: it was cancelled",
    "failed": "none is there: the bucket was away, or the worker was killed",
}


def log_lines(status: JobStatus, logs: Sequence[AttemptLog]) -> Iterator[str]:
    if not logs:
        yield f"  log        {_NO_LOG[status.state]}"
    for log in logs:
        yield f"  log        attempt {log.attempt}, by {log.worker}"
        if log.left_out:
            yield f"    {plural(log.left_out, 'earlier line')} left out"
        for line in log.lines:
            when = f"{moment(line.at)} " if line.at else ""
            yield f"    {when}{line.level.upper():7} {line.text}"


def moment(when: datetime) -> str:
    return f"{when.astimezone():%Y-%m-%d %H:%M:%S}"
