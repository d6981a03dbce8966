"""The whole worker: the farm's own servers, unlike jobs through the queue, a SIGTERM in mid-render, a second worker."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from farm.client import FarmClient
from farm.errors import StackError
from farm.jobs.request import JobRequest
from farm.jobs.status import JobStatus
from farm.stack.servers import find_redis, find_weed
from tests.benchmarks.farms import LocalFarm, local_farm
from tests.gpu.facts import Facts
from tests.gpu.subjects import Subjects
from tests.waiting import eventually

_LONGEST = 300.0
_GRACE = 30.0


def run(facts: Facts, subjects: Subjects) -> None:
    try:
        find_redis(), find_weed()
    except StackError as error:
        return facts.not_run("the whole worker", error.message)
    facts.attempt("the whole worker", lambda: _whole(facts, subjects), seconds=30)


def _whole(facts: Facts, subjects: Subjects) -> None:
    count = 6 if subjects.is_rehearsal else 100
    with local_farm() as farm, FarmClient(farm.where) as client:
        jobs = client.submit(_wishes(subjects, count)).jobs
        began = time.monotonic()
        with _worker(farm, subjects, "first") as first:
            eventually(lambda: any(map(_is_underway, client.status(jobs))), "a job is under way", within=_LONGEST)
            first.send_signal(signal.SIGTERM)
            code = first.wait(_GRACE + 15)
        after = client.status(jobs)
        facts.check("SIGTERM in mid-render: the worker leaves in order", code == 0, code=code, states=_states(after))
        with _worker(farm, subjects, "second"):
            eventually(lambda: all(job.is_over for job in client.status(jobs)), "all are over", within=_LONGEST)
        seconds = time.monotonic() - began
        ends = client.status(jobs)
        resumed = sum(job.attempt > 1 for job in ends)
        facts.check("a second worker ends what the first began", _states(ends) == {"done": count}, states=_states(ends))
        facts.check("jobs go on where the first let go", resumed > 0, resumed=resumed)
        facts.figure("both workers, start and models included", seconds=seconds, images_per_second=count / seconds)


def _wishes(subjects: Subjects, count: int) -> list[JobRequest]:
    """Unlike jobs, long enough to be caught in the midst."""
    modes: list[dict[str, Any]] = [
        {"sampler": "lms"},
        {"sampler": "euler_a", "guidance": 3.0},
        {"mode": "mix", "prompt": ("a cat", "an owl"), "mix": 0.5},
        {"mode": "guided", "losses": [{"name": "blue", "scale": 20.0, "every": 5}]},
        {"sampler": "dpmpp_2m", "trace": "frames", "trace_every": 20},
    ]
    shortest = 120 if subjects.is_rehearsal else 30
    wishes = [{"seed": n, "steps": shortest + n % 30, **modes[n % len(modes)]} for n in range(count)]
    return [JobRequest.parse({"prompt": "a cat", "model": "shaped", **wish}) for wish in wishes]


def _is_underway(job: JobStatus) -> bool:
    return job.state == "running" and 0 < job.step < job.steps


def _states(jobs: Sequence[JobStatus]) -> dict[str, int]:
    states = [job.state for job in jobs]
    return {state: states.count(state) for state in sorted(set(states))}


@contextmanager
def _worker(farm: LocalFarm, subjects: Subjects, name: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "worker", "--name", name, "--device", str(subjects.device)]
    command += [
        "--model",
        f"shaped={subjects.directory('shaped')}",
        "--rows",
        str(subjects.rows),
        "--grace",
        str(_GRACE),
    ]
    process = subprocess.Popen(command, env=farm.environment, stdout=sys.stderr)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
