"""Every arm renders the same jobs, so that what is compared is the time alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.tiny import build_tiny_model, build_tiny_xl
from worker.bench import workloads
from worker.bench.adapting import adapted
from worker.bench.engines import Engines, padded
from worker.bench.idle import watched
from worker.bench.measure import Served, largest_difference, measured, metered
from worker.bench.pipelines import Pipelines, groups
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.model import LoadedModel
from worker.models.registry import LocalDirectory

Arm = Callable[..., list[Served]]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(directory: Path) -> LoadedModel:
    return ModelLoader(place("cpu"), cache=directory / "cache").load("tiny", LocalDirectory(directory))


@pytest.fixture(scope="module")
def arms(model: LoadedModel, directory: Path) -> dict[str, Arm]:
    engines = Engines(model, rows=8, slots=4)
    pipelines = Pipelines("tiny", directory, place("cpu"))
    return {
        "engine": engines.mixed,
        "engine, only alike": engines.only_alike,
        "engine, deterministic": Engines(model, rows=8, slots=4, deterministic=True).mixed,
        "padded": partial(padded, model, batch=4, rows=6),
        "pipeline": partial(pipelines.job_by_job, memoised=False),
        "pipeline, memoised": partial(pipelines.job_by_job, memoised=True),
        "static, alike": partial(pipelines.alike_together, memoised=True, at_most=2),
    }


@pytest.fixture(scope="module")
def alone(model: LoadedModel) -> list[Served]:
    return Engines(model, rows=8, slots=4).alone(_jobs(model), time.monotonic)


OURS = ("engine", "engine, only alike", "engine, deterministic", "padded")
THEIRS = ("pipeline", "pipeline, memoised", "static, alike")


@pytest.mark.long
@pytest.mark.parametrize("name", (*OURS, *THEIRS))
def test_pictures_are_those_of_the_job_alone(
    name: str, arms: dict[str, Arm], alone: list[Served], model: LoadedModel
) -> None:
    jobs = _jobs(model)
    run = measured(lambda clock: arms[name](jobs, clock))

    assert sorted(served.id for served in run.served) == sorted(job.id for job in jobs)
    assert all(0 < served.first_step <= served.done <= run.seconds for served in run.served)
    comparable = [served for served in run.served if name in OURS or served.id in _plain(jobs)]
    assert 0 <= largest_difference(comparable, alone) <= 1


@pytest.mark.long
def test_arms_of_another_family_render_the_same(tmp_path: Path) -> None:
    directory = build_tiny_xl(tmp_path)
    model = ModelLoader(place("cpu"), cache=tmp_path).load("xl", LocalDirectory(directory))
    jobs = _jobs(model)
    ours = {served.id: served for served in Engines(model, rows=8, slots=4).mixed(jobs, time.monotonic)}
    theirs = Pipelines("xl", directory, place("cpu")).alike_together(jobs, time.monotonic, memoised=True, at_most=2)

    comparable = [served for served in theirs if served.id in _plain(jobs)]
    assert len(comparable) > 2
    assert 0 <= largest_difference(comparable, [ours[served.id] for served in comparable]) <= 1


@pytest.mark.long
@pytest.mark.parametrize("build", [build_tiny_model, build_tiny_xl])
def test_diffusers_switches_to_the_same_adapters(tmp_path: Path, build: Callable[[Path], Path]) -> None:
    pytest.importorskip("peft")
    directory = build(tmp_path)
    model = ModelLoader(place("cpu"), cache=tmp_path).load("tiny", LocalDirectory(directory))
    plain = workloads.alike(model, 3, steps=3, sampler="euler")
    jobs = adapted(model, plain, size=0.5)
    ours = Engines(model, rows=8, slots=4).mixed(jobs, time.monotonic)

    pipelines = Pipelines("tiny", directory, place("cpu"))
    with pipelines.switching(jobs) as switching:
        theirs = switching(time.monotonic)
    without = pipelines.job_by_job(plain, time.monotonic, memoised=True)

    assert 0 <= largest_difference(theirs, ours) <= 1
    assert largest_difference([replace(one, id=f"{one.id} adapted") for one in without], ours) > 1


def test_a_backlog_has_every_kind_of_job_and_is_the_same_each_time(model: LoadedModel) -> None:
    jobs = workloads.unlike(model, 12, sampler=None)

    assert {job.spec.mode for job in jobs} == {"txt2img", "img2img", "mix", "guided"}
    assert any(job.spec.trace.level == "frames" for job in jobs)
    assert len({job.spec.sampler for job in jobs}) > 2
    assert all(20 <= job.spec.steps <= 60 for job in jobs)
    assert [job.spec for job in jobs] == [job.spec for job in workloads.unlike(model, 12, sampler=None)]


def test_only_jobs_alike_share_a_call(model: LoadedModel) -> None:
    jobs = workloads.alike(model, 3, steps=4) + workloads.alike(model, 2, steps=5)

    assert [len(group) for group in groups(jobs)] == [3, 2]


def test_rows_are_counted_where_they_are_computed(model: LoadedModel) -> None:
    jobs = workloads.alike(model, 3, steps=4)
    with metered(model) as meter:
        Engines(model, rows=8, slots=4).mixed(jobs, time.monotonic)

    assert meter.rows == workloads.rows(jobs) == 3 * 4 * 2
    assert meter.seconds > 0


@pytest.mark.long
def test_a_device_is_idle_where_nothing_of_the_model_runs(model: LoadedModel) -> None:
    with watched(model) as idle:
        Engines(model, rows=8, slots=4).mixed(workloads.alike(model, 3, steps=4), time.monotonic)
        busy = idle()
        time.sleep(1.0)
        assert 0 < busy < idle() < 1, "a second in which nothing ran is idle"


def _jobs(model: LoadedModel) -> list[workloads.Job]:
    alike = workloads.alike(model, 3, steps=3, sampler="euler")
    return workloads.unlike(model, 6, sampler="lms", share=0.15) + [replace(job, id=f"like {job.id}") for job in alike]


def _plain(jobs: list[workloads.Job]) -> set[str]:
    """Jobs whose mathematics diffusers shares: no losses, and not from a picture."""
    return {job.id for job in jobs if not job.spec.guidance.losses and not job.spec.start.image}
