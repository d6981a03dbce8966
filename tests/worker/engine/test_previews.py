"""Previews of jobs in flight: asked for from outside, made at the next step, and never to a job's harm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worker.diffusion.preview import PreviewMap
from worker.engine import stepper
from worker.engine.engine import Engine
from worker.engine.request import Pixels, RenderRequest, SilentObserver
from worker.engine.rows import Step, run_step

Engines = Callable[..., Engine]
Request = Callable[..., RenderRequest]


class Looking(SilentObserver):
    """Looks at its job whenever the named steps are done, and keeps what it sees."""

    def __init__(self, engine: Engine, *after: int, job: str = "job") -> None:
        self._engine, self._after, self._job = engine, after, job
        self.seen: dict[int, Pixels] = {}

    def on_step(self, done: int) -> None:
        if done in self._after:
            self._engine.want_preview(self._job)

    def on_preview(self, done: int, pixels: Pixels) -> None:
        self.seen[done] = pixels


def test_one_look_gives_one_preview_at_the_next_step(engines: Engines, request_for: Request) -> None:
    engine = engines()
    looking = Looking(engine, 2)
    engine.submit(request_for("job", steps=9, width=96, height=64, observer=looking)).result(60)

    assert list(looking.seen) == [3]
    assert looking.seen[3].shape == (64 // 8, 96 // 8, 3)
    assert looking.seen[3].dtype == np.uint8


def test_a_preview_is_of_the_jobs_own_predicted_picture(
    engines: Engines, request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Step] = []

    def noting(*arguments: Any, **options: Any) -> Step:
        steps.append(run_step(*arguments, **options))
        return steps[-1]

    monkeypatch.setattr(stepper, "run_step", noting)
    request = request_for("job", steps=9, seed=3)
    engines(deterministic=True).submit(request).result(60)
    expected = request.model.preview.render(steps[4].x0)[0].numpy()

    engine = engines(deterministic=True)
    looking = Looking(engine, 4)
    futures = [engine.submit(request_for(f"other {n}", steps=9 + n, seed=n)) for n in range(2)]
    futures.append(engine.submit(replace(request, observer=looking)))
    for future in futures:
        future.result(60)

    assert np.array_equal(looking.seen[5], expected)


def test_nothing_is_shown_of_the_last_step_nor_to_who_does_not_look(engines: Engines, request_for: Request) -> None:
    engine = engines()
    late, silent = Looking(engine, 8), Looking(engine)
    for future in [
        engine.submit(request_for("job", steps=9, observer=late)),
        engine.submit(request_for("other", steps=9, observer=silent)),
    ]:
        future.result(60)

    assert late.seen == silent.seen == {}


def test_a_preview_of_an_unknown_job_is_ignored(engines: Engines, request_for: Request) -> None:
    engine = engines()
    engine.want_preview("nobody")
    looking = Looking(engine, 1, job="nobody")
    assert engine.submit(request_for("job", observer=looking)).result(60).pixels.any()
    assert looking.seen == {}


def test_looking_changes_no_byte_of_a_picture(engines: Engines, request_for: Request) -> None:
    request = request_for("job", steps=12, sampler="euler_a")
    alone = engines().submit(request).result(60)
    engine = engines()
    looking = Looking(engine, *range(1, 12))
    previewed = engine.submit(replace(request, observer=looking)).result(60)

    assert len(looking.seen) == 10
    assert np.array_equal(alone.pixels, previewed.pixels)


def test_a_job_does_not_fail_for_a_preview_that_does(
    engines: Engines, request_for: Request, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: PreviewMap, latents: Tensor) -> Tensor:
        raise torch.OutOfMemoryError(f"for {len(latents)}")

    monkeypatch.setattr(PreviewMap, "render", broken)
    engine = engines()
    looking = Looking(engine, 2)

    assert engine.submit(request_for("job", steps=9, observer=looking)).result(60).pixels.any()
    assert looking.seen == {}
    assert [record.message for record in caplog.records] == ["no previews could be made"], "tried once a look"
