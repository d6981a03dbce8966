"""Arrivals replayed in virtual time: the arms' queues, with the seconds that forwards and decodes took in this run.

Thousands of jobs tell a 99th percentile, and take milliseconds to replay. What a step costs is measured, how the
arms choose what to do next is repeated here.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from worker.bench.workloads import LONGEST, SHORTEST


@dataclass(frozen=True)
class Costs:
    """Seconds, measured. Those of forwards and ticks are by rows, in growing order."""

    forwards: tuple[tuple[int, float], ...]
    """As the engine runs them."""
    plain_forwards: tuple[tuple[int, float], ...]
    """As a pipeline runs them, which has diffusers' module."""
    ticks: tuple[tuple[int, float], ...]
    """What the engine adds to a forward."""
    board: float
    """What the engine does for a job before its first step."""
    decode: float
    """One picture."""
    call: float
    """What a pipeline's call takes outside of its steps, its decode included."""
    step: float
    """What a pipeline adds to the forward of a step."""

    def forward(self, rows: int) -> float:
        return _between(self.forwards, rows)

    def plain_forward(self, rows: int) -> float:
        return _between(self.plain_forwards, rows)

    def tick(self, rows: int) -> float:
        return _between(self.ticks, rows)


def _between(measured: Sequence[tuple[int, float]], rows: int) -> float:
    """The seconds for a number of rows: between those that were measured, in proportion."""
    sizes = [size for size, _ in measured]
    at = bisect_left(sizes, rows)
    if at == len(sizes):
        return measured[-1][1] * rows / sizes[-1]
    if at == 0:
        return measured[0][1]
    (low, low_time), (high, high_time) = measured[at - 1 : at + 1]
    return low_time + (high_time - low_time) * (rows - low) / (high - low)


@dataclass
class Arrival:
    """A job that arrives at a moment, and when it had its first step and its picture."""

    moment: float
    steps: int
    rows: int
    first_step: float = 0.0
    done: float = 0.0

    @property
    def latency(self) -> float:
        return self.done - self.moment

    @property
    def first_preview(self) -> float:
        return self.first_step - self.moment


def poisson(count: int, rate: float, *, seed: int = 0) -> list[Arrival]:
    """`count` unlike jobs (20 to 60 steps, one in ten without guidance), `rate` of them a second."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    moment, arrivals = 0.0, []
    for _ in range(count):
        moment += draw.expovariate(rate)
        arrivals.append(Arrival(moment, draw.randint(SHORTEST, LONGEST), 1 if draw.random() < 0.1 else 2))
    return arrivals


def capacity(costs: Costs) -> float:
    """Jobs a second that a pipeline finishes one by one."""
    sample = poisson(1_000, 1.0)
    return len(sample) / sum(_call_seconds([job], costs) for job in sample)


def job_by_job(arrivals: Sequence[Arrival], costs: Costs) -> None:
    """One pipeline, first come, first served."""
    static(arrivals, costs, batch=1)


def static(arrivals: Sequence[Arrival], costs: Costs, *, batch: int) -> None:
    """Whenever it is free, all that wait (at most `batch`) go together, padded to the longest."""
    waiting, now = deque(arrivals), 0.0
    while waiting:
        now = max(now, waiting[0].moment)
        together = [waiting.popleft()]
        while waiting and waiting[0].moment <= now and len(together) < batch:
            together.append(waiting.popleft())
        first = now + _call_seconds(together, costs, steps=1) - costs.decode * len(together)
        now += _call_seconds(together, costs)
        for job in together:
            job.first_step, job.done = first, now


def _call_seconds(jobs: Sequence[Arrival], costs: Costs, *, steps: int | None = None) -> float:
    forward = costs.plain_forward(sum(job.rows for job in jobs))
    longest = steps or max(job.steps for job in jobs)
    return longest * (forward + costs.step) + costs.call + costs.decode * (len(jobs) - 1)


def engine(arrivals: Sequence[Arrival], costs: Costs, *, rows: int, slots: int, chunk: int = 4) -> None:
    """The farm's engine: jobs come and go at every step; finished ones are decoded a chunk a tick."""
    coming, now = deque(arrivals), 0.0
    flying: list[tuple[Arrival, int]] = []
    landing: deque[Arrival] = deque()
    while coming or flying or landing:
        if not flying and not landing:
            now = max(now, coming[0].moment)
        while coming and coming[0].moment <= now and len(flying) + len(landing) < slots:
            flying.append((coming.popleft(), 0))
            now += costs.board
        chosen = _chosen(flying, rows)
        if chosen:
            together = sum(flying[index][0].rows for index in chosen)
            now += costs.forward(together) + costs.tick(together)
        for index in chosen:
            job, done = flying[index]
            flying[index] = (job, done + 1)
            if done == 0:
                job.first_step = now
        landing.extend(job for job, done in flying if done == job.steps)
        flying = [(job, done) for job, done in flying if done < job.steps]
        last_step_at = [landing.popleft() for _ in range(min(chunk, len(landing)))]
        now += costs.decode * len(last_step_at)
        for job in last_step_at:
            job.done = now


def _chosen(flying: Sequence[tuple[Arrival, int]], rows: int) -> list[int]:
    chosen: list[int] = []
    for index, (job, _) in enumerate(flying):
        if job.rows <= rows:
            chosen.append(index)
            rows -= job.rows
    return chosen
