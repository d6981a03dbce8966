"""What of an engine's throughput is left in a full worker, what looking at it takes, and what a second worker adds.

Every engine has one thread, so that two workers do not compete for cores where there are two. Jobs are of 15 to 25
steps, so that they do not all end at once, and only what is done while all slots are taken counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from farm.cli.view.looking import Looking
from farm.client import FarmClient
from farm.jobs.request import JobRequest
from tests.benchmarks.farms import LocalFarm
from worker.bench import workloads
from worker.bench.measure import Spread

_PATIENCE = 900.0
_SLOTS, _ROWS = 16, 32
_ALONE = f"""
import json, sys, time
from dataclasses import replace
from pathlib import Path
from worker.runtime import settle
settle()
import torch
torch.set_num_threads(1)
from worker.bench import workloads
from worker.bench.engines import Engines
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.registry import BUILT_IN
model = ModelLoader(place("cpu"), cache=Path("cache")).load("emoji", BUILT_IN["emoji"])
engines = Engines(model, {_ROWS}, {_SLOTS})
steps = json.loads(sys.argv[1])
alike = workloads.alike(model, len(steps), steps=20, sampler="euler")
jobs = [replace(job, spec=job.spec.model_copy(update={{"steps": n}})) for job, n in zip(alike, steps)]
engines.mixed(jobs[:1], time.monotonic)
print(json.dumps([served.done for served in engines.mixed(jobs, time.monotonic)]))
"""


def throughput(farm: LocalFarm, *, jobs: int = 48, repeats: int = 3) -> dict[str, Any]:
    """Images a second of the engine alone, of one worker, of one looked at, and of two, and their ratios.

    Each repeat begins with another of them, for machines grow slower and faster.
    """
    arms: dict[str, Callable[[], float]] = {
        "engine alone": lambda: _engine_alone(farm, jobs),
        "one worker": lambda: _workers(farm, 1, jobs),
        "looked at": lambda: _workers(farm, 1, jobs, looking=True),
        "two workers": lambda: _workers(farm, 2, 2 * jobs),
    }
    rates: dict[str, list[float]] = {name: [] for name in arms}
    names = deque(arms)
    for _ in range(repeats):
        for name in names:
            rates[name].append(arms[name]())
        names.rotate(1)
    return {
        "jobs": jobs,
        "cores": os.cpu_count(),
        "images a second": {name: vars(Spread.of(found)) for name, found in rates.items()},
        "one worker over engine": _ratio(rates["one worker"], rates["engine alone"]),
        "looked at over not": _ratio(rates["looked at"], rates["one worker"]),
        "two workers over one": _ratio(rates["two workers"], rates["one worker"]),
    }


def _ratio(over: list[float], under: list[float]) -> dict[str, float]:
    return vars(Spread.of([one / other for one, other in zip(over, under, strict=True)]))


def _engine_alone(farm: LocalFarm, jobs: int) -> float:
    steps = [_steps(number) for number in range(jobs + 2 * _SLOTS)]
    command = [sys.executable, "-c", _ALONE, json.dumps(steps)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=_PATIENCE, env=_one_thread(farm))
    if done.returncode:
        raise SystemExit(done.stderr)
    return _rate(json.loads(done.stdout.splitlines()[-1]), _SLOTS)


def _steps(number: int) -> int:
    return 15 + 7 * number % 11


def _rate(ends: Sequence[float], slots: int) -> float:
    """Jobs a second, from when as many have ended as there are slots until only as many are left."""
    ends = sorted(ends)[slots - 1 : -slots]
    return (len(ends) - 1) / (ends[-1] - ends[0])


def _workers(farm: LocalFarm, count: int, jobs: int, *, looking: bool = False) -> float:
    with ExitStack() as stack, FarmClient(farm.where) as client:
        for number in range(count):
            stack.enter_context(_worker(farm, f"w{number}"))
        _until_ready(client, count)
        _ends(client, 2 * count)
        slots = count * _SLOTS
        return _rate(_ends(client, jobs + 2 * slots, looking=looking), slots)


def _ends(client: FarmClient, count: int, *, looking: bool = False) -> list[float]:
    """When each of so many jobs was done, in seconds."""
    prompts = [workloads.prompt(number) for number in range(count)]  # those of the engine alone
    jobs = client.submit(
        JobRequest(prompt=prompt, steps=_steps(number), sampler="euler", seed=number, model="emoji")
        for number, prompt in enumerate(prompts)
    ).jobs
    with Looking(client, None) if looking else nullcontext() as eyes:
        for _ in eyes.following(client.watch(jobs)) if eyes else client.watch(jobs):
            pass
    found = [client.ledger.get(job) for job in jobs]
    assert all(status.state == "done" for status in found), found
    return [status.finished.timestamp() for status in found if status.finished]


@contextmanager
def _worker(farm: LocalFarm, name: str) -> Iterator[None]:
    options = ["--name", name, "--slots", str(_SLOTS), "--rows", str(_ROWS)]
    worker = subprocess.Popen(
        [sys.executable, "-m", "worker", *options], env=_one_thread(farm), stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        worker.terminate()
        worker.wait(_PATIENCE)


def _until_ready(client: FarmClient, count: int) -> None:
    give_up = time.monotonic() + _PATIENCE
    while sum(worker.state == "ready" for worker in client.workers()) != count:
        if time.monotonic() > give_up:
            raise SystemExit("the workers are not ready")
        time.sleep(0.2)


def _one_thread(farm: LocalFarm) -> dict[str, str]:
    return {**farm.environment, "OMP_NUM_THREADS": "1"}
