"""What the farm adds to a job beside rendering it, on an idle worker and at full load, and a worker's cold start."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from farm.client import FarmClient
from farm.jobs.request import JobRequest
from tests.benchmarks.farms import LocalFarm

_LONGEST_WAIT = 900.0

_STAGES = """
import json, os, sys, time
begun = float(sys.argv[1])
stages = []
def note(name):
    stages.append((name, time.time() - begun, time.process_time()))
note("the interpreter")
from worker.runtime import importing, settle
settle()
with importing():
    import torch
    note("import torch")
    import worker.app
    note("import diffusers, transformers and the worker")
    from celery import Celery
    import celery.worker, boto3
    note("import celery and boto3")
from worker.bench import workloads
from worker.bench.engines import Engines
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.registry import BUILT_IN
from pathlib import Path
model = ModelLoader(place("cpu"), cache=Path("cache")).load("emoji", BUILT_IN["emoji"])
note("load the model")
engines = Engines(model, 16, 16)
jobs = workloads.alike(model, 2, steps=20, sampler="euler")
engines.mixed(jobs[:1], time.monotonic)
note("the first image, 20 steps")
engines.mixed(jobs[1:], time.monotonic)
note("the second image")
print(json.dumps(stages))
"""


def cold_start() -> dict[str, Any]:
    """Seconds by the clock and on the CPU of each part of a worker's start, up to its second image."""
    command = [sys.executable, "-c", _STAGES, str(time.time())]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=_LONGEST_WAIT, env=os.environ)
    if done.returncode:
        raise SystemExit(done.stderr)
    stages = json.loads(done.stdout.splitlines()[-1])
    found, wall, cpu = {}, 0.0, 0.0
    for name, at, used in stages:
        found[name] = {"seconds": at - wall, "cpu_seconds": used - cpu}
        wall, cpu = at, used
    return found


def overhead(farm: LocalFarm, *, one_by_one: int = 10, together: int = 32) -> dict[str, Any]:
    """What the farm adds to jobs of a worker that has nothing else to do, and how fast it renders many at once."""
    with FarmClient(farm.where) as client:
        _render(client, 1)
        lonely = [_render(client, 1)[0] for _ in range(one_by_one)]
        began = time.perf_counter()
        many = _render(client, together)
        seconds = time.perf_counter() - began
        worker = client.workers()[0]
    return {
        "jobs one by one": one_by_one,
        **{name: statistics.median(job[name] for job in lonely) for name in lonely[0]},
        "jobs together": len(many),
        "images a second together": len(many) / seconds,
        "slots": worker.slots,
    }


def _render(client: FarmClient, count: int) -> list[dict[str, float]]:
    """Submit pictures and wait for them. Returns, for each, where its seconds went."""
    wish = JobRequest(prompt="a red apple", steps=20, sampler="euler", seed=1, count=count, model="emoji")
    jobs = client.submit([wish]).jobs
    for _ in client.watch(jobs):
        pass
    found = []
    for job in jobs:
        status, spent = client.ledger.get(job), client.result(job).timings
        assert status.state == "done" and status.started and status.finished, status
        rendering = spent["total"]  # from the claim to the pixels: with reading the prompt, without the PNG
        whole = (status.finished - status.submitted).total_seconds()
        found.append(
            {
                "whole": whole,
                "rendering": rendering,
                "until it is claimed": (status.started - status.submitted).total_seconds(),
                "added by the farm": whole - rendering,
            }
        )
    return found
