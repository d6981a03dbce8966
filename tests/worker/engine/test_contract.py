"""What those who hand jobs to an engine rely on: of the real one, and of the one that unit tests use in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from tests.fakes.engine import FakeEngine
from worker.diffusion.losses import load_losses
from worker.engine.engine import Engine
from worker.engine.request import Cancelled, Pixels, RenderRequest, Snapshot, StepRecord, Suspended

Make = Callable[..., RenderRequest]


@dataclass
class Witness:
    """Notes what an engine says of a job, and does `then` at a step."""

    at: int = 0
    then: Callable[[], None] = lambda: None
    steps: list[int] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)
    starts: list[Pixels] = field(default_factory=list)
    traced: list[tuple[StepRecord, Pixels | None]] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    previews: list[tuple[int, Pixels]] = field(default_factory=list)

    def on_step(self, done: int) -> None:
        self.steps.append(done)
        if done == self.at:
            self.then()

    def on_losses(self, values: Mapping[str, float]) -> None:
        self.losses.append(dict(values))

    def on_start(self, frame: Pixels) -> None:
        self.starts.append(frame)

    def on_trace(self, record: StepRecord, frame: Pixels | None) -> None:
        self.traced.append((record, frame))

    def on_snapshot(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    def on_preview(self, done: int, pixels: Pixels) -> None:
        self.previews.append((done, pixels))


@pytest.fixture(params=["real", "fake"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made = FakeEngine() if request.param == "fake" else Engine(load_losses(), max_rows=8)
    made.start()
    yield made
    made.stop()


def test_a_picture_comes_with_the_seconds_that_it_took(engine: Engine, request_for: Make) -> None:
    rendered = engine.submit(request_for("j", width=96, height=64)).result(60)

    assert rendered.pixels.shape == (64, 96, 3)
    assert rendered.pixels.dtype == np.uint8
    assert {"render", "decode"} <= rendered.timings.keys()


def test_each_step_is_told_once_and_a_late_start_has_fewer(engine: Engine, request_for: Make) -> None:
    whole, late = Witness(), Witness()
    engine.submit(request_for("whole", steps=5, observer=whole)).result(60)
    engine.submit(request_for("late", steps=5, from_image=True, start_step=3, observer=late)).result(60)

    assert (whole.steps, late.steps) == ([1, 2, 3, 4, 5], [1, 2])


def test_a_cancelled_job_takes_no_further_step(engine: Engine, request_for: Make) -> None:
    witness = Witness(at=3, then=lambda: engine.cancel("j"))

    error = engine.submit(request_for("j", steps=9, observer=witness)).exception(60)

    assert isinstance(error, Cancelled)
    assert witness.steps == [1, 2, 3]


def test_what_it_does_not_know_is_cancelled_without_a_word(engine: Engine, request_for: Make) -> None:
    engine.cancel("j")
    engine.want_preview("j")

    engine.submit(request_for("j")).result(60)


def test_a_suspended_job_tells_where_it_got_to_and_goes_on_from_there(engine: Engine, request_for: Make) -> None:
    first, second = Witness(at=3, then=engine.suspend_all), Witness()

    suspended = engine.submit(request_for("j", steps=6, observer=first)).exception(60)

    assert isinstance(suspended, Suspended)
    assert (suspended.snapshot.position, first.steps) == (3, [1, 2, 3])
    again = replace(request_for("again", steps=6, observer=second), resume=suspended.snapshot)
    engine.submit(again).result(60)
    assert second.steps == [4, 5, 6]


def test_who_is_asked_to_suspend_finishes_what_has_had_its_last_step(engine: Engine, request_for: Make) -> None:
    witness = Witness(at=4, then=engine.suspend_all)

    engine.submit(request_for("j", steps=4, observer=witness)).result(60)


@pytest.mark.parametrize(("level", "framed"), [("numbers", False), ("frames", True)])
def test_traced_steps_are_told_the_last_always(engine: Engine, request_for: Make, level: str, framed: bool) -> None:
    witness = Witness()
    engine.submit(request_for("j", steps=6, trace=level, trace_every=4, observer=witness)).result(60)

    assert [record.step for record, _ in witness.traced] == [0, 4, 5]
    norms = {"x", "x_next", "x0", "output", "conditional", "unconditional"}
    assert all(record.norms.keys() == norms for record, _ in witness.traced)
    assert all(record.guidance and record.guidance.keys() == {"angle", "distance"} for record, _ in witness.traced)
    assert [record.x0_change is None for record, _ in witness.traced] == [True, False, False]
    assert [None if frame is None else frame.shape for _, frame in witness.traced] == [
        (64, 128, 3) if framed else None
    ] * 3


def test_a_preview_is_given_once_each_time_it_is_asked_for(engine: Engine, request_for: Make) -> None:
    witness = Witness(at=2, then=lambda: engine.want_preview("j"))
    engine.submit(request_for("j", steps=6, observer=witness)).result(60)

    [(done, pixels)] = witness.previews
    assert (done, pixels.shape) == (3, (8, 8, 3))
    assert pixels.dtype == np.uint8


def test_nothing_else_is_told_of_a_short_job_without_a_trace(engine: Engine, request_for: Make) -> None:
    witness = Witness()
    engine.submit(request_for("j", observer=witness)).result(60)

    assert (witness.traced, witness.snapshots, witness.previews) == ([], [], [])
