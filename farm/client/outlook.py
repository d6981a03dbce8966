"""What waits for what, and about when it will be done: whose turn it is, and how fast pictures are made now.

Workers say how many pictures they made in the last minute; where that says nothing yet, the steps of running jobs do.
All jobs of a model are taken to be alike, for to weigh those that wait, the record of every one would have to be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from farm.client.waits import refusal
from farm.jobs.status import JobStatus, WorkerInfo


@dataclass(frozen=True)
class Line:
    """What waits for a model: how many jobs wait and run, the live workers that serve it, that take jobs of it now and
    that have it in memory, and how many of its pictures are made a second; None where that is not known.

    `why` none of its workers takes jobs, where they agree; of a model that nobody serves, why one refuses it.
    """

    model: str
    waiting: int
    running: int
    workers: tuple[str, ...] = ()
    takers: tuple[str, ...] = ()
    warm: tuple[str, ...] = ()
    rate: float | None = None
    why: str | None = None

    @property
    def seconds(self) -> float | None:
        """About how long until all of it is done."""
        return (self.waiting + self.running / 2) / self.rate if self.rate else None


def lines(
    waiting: Mapping[str, int], workers: Sequence[WorkerInfo], running: Sequence[JobStatus], now: datetime
) -> dict[str, Line]:
    """The lines of all models that jobs wait for or run with, or that are served, by model.

    `waiting` is how many jobs are queued for each. What a worker makes is divided among the models it has work for; one
    that takes no jobs (paused, drained, stopping) promises nothing, whatever it made in the last minute.
    """
    takers = [worker for worker in workers if worker.idle_because is None]
    taking = {worker.id for worker in takers}
    paces: dict[str, float] = {}
    number: dict[str, int] = {}
    for status in running:
        number[status.model] = number.get(status.model, 0) + 1
        if status.worker in taking and (seconds := whole_seconds(status, now)):
            paces[status.model] = paces.get(status.model, 0.0) + 1 / seconds
    wanted = {model for model, jobs in waiting.items() if jobs} | number.keys()
    names = sorted(wanted | {model for worker in workers for model in worker.models})
    return {
        model: Line(
            model,
            waiting=waiting.get(model, 0),
            running=number.get(model, 0),
            workers=tuple(worker.id for worker in workers if model in worker.models),
            takers=tuple(worker.id for worker in takers if model in worker.models),
            warm=tuple(worker.id for worker in workers if model in worker.warm),
            rate=sum(_rate(worker, model, wanted) for worker in takers) or paces.get(model),
            why=_why(model, workers),
        )
        for model in names
    }


def _why(model: str, workers: Sequence[WorkerInfo]) -> str | None:
    """Why none of those that serve a model takes jobs, None where one does, or they do not agree; else why one of
    those does not serve it that were to."""
    reasons = {worker.idle_because for worker in workers if model in worker.models}
    if not reasons:
        return refusal(model, workers)
    return reasons.pop() if len(reasons) == 1 else None


def _rate(worker: WorkerInfo, model: str, wanted: set[str]) -> float:
    """The share of a worker's pictures a second that are of a model."""
    if model not in worker.models or not worker.images_per_minute:
        return 0.0
    among = len(wanted.intersection(worker.models) | {model})
    return worker.images_per_minute / 60 / among


def wait_seconds(line: Line, place: int) -> float | None:
    """About how long until the job at this place in line, from 0, is done. Of the running ones half is done already."""
    return (place + 1 + line.running / 2) / line.rate if line.rate else None


def whole_seconds(status: JobStatus, now: datetime) -> float | None:
    """About how long a running job takes from its start to its end, by the steps that it has done."""
    if status.state != "running" or not status.started or not status.step:
        return None
    return max(0.0, (now - status.started).total_seconds()) * status.steps / status.step or None


def left_seconds(status: JobStatus, now: datetime) -> float | None:
    """About how long until a running job is done."""
    whole = whole_seconds(status, now)
    return None if whole is None else whole * (1 - status.step / status.steps)
