"""A discrete-event simulation: how many workers one Redis and one bucket can serve.

Every job is claimed, rendered, stored in three objects and finished; every worker reports its jobs' steps twice a
second. What each costs Redis, and how long a step takes, was measured; how fast the bucket is, is measured or given.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

REPORTS_A_SECOND = 2.0
OBJECTS_A_JOB = 3
"""The picture, the attempt's result, and the job's."""
STEPS = 30
REQUEST_US = 15.0
"""Microseconds of Redis to read a request and write its answer, which INFO commandstats does not count: assumed."""


@dataclass(frozen=True)
class WorkerKind:
    """`slots` jobs are in flight, and advance together by a step in `tick` seconds; then a decode each."""

    name: str
    slots: int
    tick: float
    decode: float

    @property
    def images_per_second(self) -> float:
        return self.slots / (STEPS * self.tick + self.slots * self.decode)


def assumed_gpu() -> WorkerKind:
    """A worker on an H200 with Stable Diffusion 1.4 at 512×512: 0.8 TFLOP a row at 40 % of 990 TFLOP/s."""
    a_row, a_decode, speed = 0.8, 2.5, 0.4 * 990
    return WorkerKind("an H200 at 40 % of its peak, SD 1.4 (assumed)", 32, 2 * 32 * a_row / speed, a_decode / speed)


@dataclass(frozen=True)
class Services:
    """Seconds of one Redis, and of one of the bucket's `lanes`."""

    claim: float
    report: float
    """Of one job in one worker's report."""
    finish: float
    put: float
    lanes: int


@dataclass
class Server:
    """Serves one request a lane, first come, first served."""

    lanes: int
    free: list[float] = field(default_factory=list)
    busy: float = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """When a request that comes now is done. Requests must come in order of time."""
        begun = max(now, heapq.heappop(self.free) if len(self.free) == self.lanes else now)
        self.busy += seconds
        heapq.heappush(self.free, begun + seconds)
        return begun + seconds


Process = Iterator[tuple[Server | None, float]]
"""Yields what it waits for: seconds of a server, or with None just seconds."""


def simulate(kind: WorkerKind, workers: int, services: Services, *, seconds: float, seed: int = 0) -> dict[str, float]:
    """The throughput of `workers` with jobs enough for all, and how busy Redis and the bucket are."""
    redis, bucket = Server(1), Server(services.lanes)
    draw = random.Random(seed)
    done: list[float] = []
    clock = [0.0]

    def slot() -> Process:
        yield None, draw.uniform(0, STEPS * kind.tick)
        while True:
            yield redis, services.claim
            yield None, STEPS * kind.tick + kind.slots * kind.decode
            for _ in range(OBJECTS_A_JOB - 1):
                yield bucket, services.put
            yield redis, services.finish
            done.append(clock[0])
            yield bucket, services.put

    def reporter() -> Process:
        yield None, draw.uniform(0, 1 / REPORTS_A_SECOND)
        while True:
            yield redis, services.report * kind.slots
            yield None, 1 / REPORTS_A_SECOND

    order = itertools.count()
    processes = [slot() for _ in range(workers * kind.slots)] + [reporter() for _ in range(workers)]
    coming = [(0.0, next(order), process) for process in processes]
    while coming[0][0] < seconds:
        now, _, process = heapq.heappop(coming)
        clock[0] = now
        server, wanted = next(process)
        heapq.heappush(coming, (server.serve(now, wanted) if server else now + wanted, next(order), process))
    warm = seconds / 2
    throughput = sum(moment > warm for moment in done) / (seconds - warm)
    ideal = workers * kind.images_per_second
    return {
        "images_per_second": throughput,
        "share_of_ideal": throughput / ideal,
        "redis_busy": min(1.0, redis.busy / seconds),
        "bucket_busy": min(1.0, bucket.busy / seconds / services.lanes),
    }


def large_bucket(local: Services) -> Services:
    """The same Redis beside an object storage that takes 5,000 objects a second, 40 ms each. Assumed."""
    return replace(local, put=0.04, lanes=200)


def table(
    kinds: list[WorkerKind], services: Services, *, counts: tuple[int, ...] = (1, 10, 100, 1_000)
) -> dict[str, Any]:
    """Every kind of worker, by their number."""
    return {
        kind.name: {
            str(count): simulate(kind, count, services, seconds=_long_enough(kind, count, services)) for count in counts
        }
        for kind in kinds
    }


def _long_enough(kind: WorkerKind, workers: int, services: Services) -> float:
    """Seconds in which every slot has had several jobs, also where all of them queue for the bucket."""
    a_job = kind.slots / kind.images_per_second
    all_queue = workers * kind.slots * OBJECTS_A_JOB * services.put / services.lanes
    return max(60.0, 6 * a_job, 3 * all_queue)
