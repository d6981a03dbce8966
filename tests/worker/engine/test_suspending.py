"""Jobs let go of between two steps, and taken up by another engine as if nothing had come between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from farm.errors import InvalidInput
from worker.engine.engine import Engine
from worker.engine.request import Rendered, RenderRequest, SilentObserver, Snapshot, Suspended

Engines = Callable[..., Engine]
Request = Callable[..., RenderRequest]


class SuspendingAt(SilentObserver):
    """Asks the engine to let go of everything when a step is done."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.engine: Engine | None = None

    def on_step(self, done: int) -> None:
        if done == self.step and self.engine is not None:
            self.engine.suspend_all()


class Keeping(SilentObserver):
    """Keeps the snapshots."""

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []

    def on_snapshot(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)


def suspended(engine: Engine, request: RenderRequest, step: int) -> Snapshot:
    observer = SuspendingAt(step)
    observer.engine = engine
    with pytest.raises(Suspended) as error:
        engine.submit(replace(request, observer=observer)).result(60)
    return error.value.snapshot


@pytest.mark.long
@pytest.mark.parametrize(
    "fields",
    [
        {"sampler": "lms"},
        {"sampler": "euler_a"},
        {"sampler": "dpmpp_2m"},
        {"sampler": "ddim", "from_image": True, "start_step": 3},
        {"sampler": "dpmpp_sde", "schedule": "karras"},
        {"sampler": "unipc"},
        {"losses": [{"name": "blue", "scale": 10, "every": 2}]},
    ],
    ids=str,
)
def test_a_job_goes_on_to_the_same_bytes(engines: Engines, request_for: Request, fields: dict[str, Any]) -> None:
    request = request_for("job", steps=12, **fields)
    whole: Rendered = engines(deterministic=True).submit(request).result(60)

    snapshot = suspended(engines(deterministic=True), request, 5)
    again = engines(deterministic=True).submit(replace(request, picture=None, resume=snapshot)).result(60)

    assert snapshot.position == 5
    assert np.array_equal(again.pixels, whole.pixels)


def test_everything_in_flight_is_let_go_at_once(engines: Engines, request_for: Request) -> None:
    engine = engines()
    futures = [engine.submit(request_for(f"job {n}", steps=1000, seed=n)) for n in range(3)]
    first = suspended(engine, request_for("first", steps=1000), 2)

    snapshots = [future.exception(60) for future in futures]

    assert first.position == 2
    assert all(isinstance(error, Suspended) and 0 < error.snapshot.position < 1000 for error in snapshots)


def test_snapshots_are_taken_now_and_then_and_hold_what_was_then(engines: Engines, request_for: Request) -> None:
    keeping = Keeping()
    engines(snapshot_seconds=1e-9).submit(request_for("job", steps=6, observer=keeping)).result(60)

    assert [snapshot.position for snapshot in keeping.snapshots] == [1, 2, 3, 4, 5]
    assert not np.array_equal(keeping.snapshots[0].x, keeping.snapshots[1].x)


def test_short_jobs_give_no_snapshots(engines: Engines, request_for: Request) -> None:
    keeping = Keeping()
    engines(snapshot_seconds=3600.0).submit(request_for("job", steps=6, observer=keeping)).result(60)
    assert keeping.snapshots == []


def test_the_time_limit_counts_what_earlier_attempts_took(engines: Engines, request_for: Request) -> None:
    request = request_for("job", steps=1000, time_limit=3600.0)
    snapshot = replace(suspended(engines(), request, 2), seconds=3601.0)

    with pytest.raises(Exception, match="not done within its time limit of 3600 s: 2 of 1000 steps"):
        engines().submit(replace(request, resume=snapshot)).result(60)


@pytest.mark.parametrize("position", [0, 6, 7])
def test_a_snapshot_of_another_job_is_refused(engines: Engines, request_for: Request, position: int) -> None:
    request = request_for("job", steps=6)
    snapshot = replace(suspended(engines(), request, 2), position=position)

    with pytest.raises(InvalidInput, match=f"a snapshot at step {position} is not one of 6 steps"):
        engines().submit(replace(request, resume=snapshot)).result(60)


def test_a_snapshot_of_another_size_is_refused(engines: Engines, request_for: Request) -> None:
    snapshot = suspended(engines(), request_for("small", steps=6), 2)

    with pytest.raises(InvalidInput, match="a snapshot of latents"):
        engines().submit(replace(request_for("large", steps=6, width=128), resume=snapshot)).result(60)
