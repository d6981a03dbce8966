"""A worker whose operator bounds what jobs may ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from farm.client import FarmClient
from farm.jobs.limits import Limits
from farm.jobs.status import JobStatus
from tests.faults.plugin import paced
from tests.integration.conftest import Launcher


def test_jobs_beyond_a_workers_limits_fail_with_the_reason(
    client: FarmClient,
    launch: Launcher,
    submit: Callable[..., list[str]],
    finish: Callable[[list[str]], list[JobStatus]],
) -> None:
    limits = ("--max-side", "64", "--max-steps", "200", "--max-seconds", "4")
    launch("bounded", *limits, model="bounded")
    (told_of,) = [worker.limits for worker in client.workers() if "bounded" in worker.models]
    assert told_of == Limits(side=64, steps=200, seconds=4)
    [small] = finish(submit(model="bounded", steps=2))
    assert small.state == "done", small.error

    jobs = [
        *submit(model="bounded", width=72),
        *submit(model="bounded", steps=201),
        *submit(model="bounded", steps=2, **paced(4.5)),
    ]

    wide, long, slow = finish(jobs)

    told: dict[str, Any] = {one.id: (one.error.kind, one.error.message) for one in (wide, long, slow) if one.error}
    assert told[wide.id][0] == told[long.id][0] == "limit"
    assert "72 pixels a side" in told[wide.id][1]
    assert "201 steps" in told[long.id][1]
    assert told[slow.id][0] == "timeout"
