"""Jobs for people: many as a table, one in detail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from farm.cli.view.job_log import moment
from farm.cli.view.output import age
from farm.cli.view.style import STYLES
from farm.cli.view.summary import values_of
from farm.jobs.describe import describe
from farm.jobs.spec import JobSpec
from farm.jobs.status import JobStatus
from farm.jobs.wanted import DEFAULT_PRIORITY

if TYPE_CHECKING:
    from farm.cli.view.columns import Cell, Columns


def table_of(statuses: Sequence[JobStatus]) -> Columns:
    """A row for each job; with its priority, where one that waits or runs has another than most."""
    from rich.text import Text

    from farm.cli.view.columns import Columns

    left_out = () if any(map(_is_unusual, statuses)) else ("priority",)
    rows = Columns(
        *(name for name in ("job", "state", "step", "priority", "age", "model", "prompt") if name not in left_out),
        right=("step", "priority", "age"),
        elastic="prompt",
        dropped=[name for name in ("model", "age", "prompt", "priority", "step") if name not in left_out],
    )
    for status in statuses:
        cells: dict[str, Cell] = {
            "job": status.id,
            "state": Text(status.state, style=STYLES[status.state]),
            "step": f"{status.step}/{status.steps}",
            "priority": str(status.priority) if _is_unusual(status) else "",
            "age": age(status.submitted),
            "model": status.model,
            "prompt": status.prompt,
        }
        rows.add(*(cell for name, cell in cells.items() if name not in left_out))
    return rows


def _is_unusual(status: JobStatus) -> bool:
    """Whether it waits or runs by another priority than most."""
    return not status.is_over and status.priority != DEFAULT_PRIORITY


def details(status: JobStatus, spec: JobSpec | None, held_up: str | None = None) -> Iterator[str]:
    """What `farm status` says of a job beside its id, and why jobs of its model are `held_up`. Times of a job that was
    tried again are of its last attempt."""
    yield f"  {status.state}"
    if status.state == "queued" and held_up:
        yield f"  waits      {held_up}"
    yield f"  prompt     {status.prompt}"
    if spec:
        yield f"  settings   {describe(spec)}"
    yield f"  model      {status.model} · priority {status.priority}"
    yield f"  step       {status.step} of {status.steps}"
    if status.attempt:
        yield f"  worker     {status.worker or '–'} · attempt {status.attempt}"
    yield f"  submitted  {moment(status.submitted)}, {age(status.submitted)} ago"
    tried = f" (attempt {status.attempt})" if status.attempt > 1 else ""
    if status.started:
        yield f"  started    {moment(status.started)}{tried}"
    if status.finished:
        took = "" if status.took is None else f", after {status.took:.1f} s{tried}"
        yield f"  finished   {moment(status.finished)}{took}"
    if status.losses:
        yield f"  losses     {' · '.join(values_of(status.losses))}"
    if status.labels:
        yield f"  labels     {' '.join(f'{key}={value}' for key, value in status.labels.items())}"
    if status.error:
        yield f"  error      {status.error.kind}: {status.error.message}"
    for warning in status.warnings:
        yield f"  warning    {warning}"
    if status.result:
        yield f"  result     {status.result}"
