"""Studies beside pictures that hold every slot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from farm import keys
from farm.jobs.answers import Similar
from farm.jobs.request import JobRequest
from farm.ledger.records import NewJob
from tests.fakes.worker import FakeFarm, FakeWorker
from tests.ledgers import BATCH
from worker.job.lane import StudyLane
from worker.studies import kinds
from worker.studies.study import Answered


@pytest.fixture(autouse=True)
def _answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        kinds, "BY_NAME", dict.fromkeys(kinds.BY_NAME, lambda *_: Answered(Similar(prompts=(), cosines=(), cut=())))
    )


def submit(farm: FakeFarm, *requests: dict[str, Any]) -> list[str]:
    made = [JobRequest.parse({"model": "tiny", "steps": 9, **fields}) for fields in requests]
    jobs = [
        NewJob(keys.job_in_batch(BATCH, n), request.specs(None, default_model="tiny")[0], request.priority, {})
        for n, request in enumerate(made)
    ]
    farm.ledger.create(BATCH, jobs)
    return [job.id for job in jobs]


STUDY: dict[str, Any] = {"mode": "schedule"}
PICTURE: dict[str, Any] = {"prompt": "a cat"}
URGENT: dict[str, Any] = {"prompt": "a cat", "priority": 9}


def lane_of(worker: FakeWorker, *, slots: int) -> StudyLane:
    served = worker.claims.served
    return StudyLane(worker.farm.ledger, worker.keeper, served, slots=slots, work=worker.runner.answer)


def held(farm: FakeFarm, worker: FakeWorker, job: str) -> Any:
    claim = farm.ledger.claim(job, worker.id)
    assert claim is not None
    return worker.keeper.holding(claim)


def test_a_study_is_answered_while_pictures_hold_every_slot(farm: FakeFarm, worker: FakeWorker) -> None:
    running, waiting, urgent, study, another = submit(farm, PICTURE, PICTURE, URGENT, STUDY, STUDY)
    with held(farm, worker, running):
        lane_of(worker, slots=1).look()
    states = [farm.status(job).state for job in (running, waiting, urgent, study, another)]
    assert states == ["running", "queued", "queued", "done", "done"], "pictures wait for a slot, urgent ones too"


def test_with_a_free_slot_it_is_left_to_that(farm: FakeFarm, worker: FakeWorker) -> None:
    running, study = submit(farm, PICTURE, STUDY)
    with held(farm, worker, running):
        lane_of(worker, slots=2).look()
    assert farm.status(study).state == "queued"


def test_a_study_of_a_model_that_is_not_served_waits(farm: FakeFarm, worker: FakeWorker) -> None:
    running, study = submit(farm, PICTURE, {**STUDY, "model": "other"})
    with held(farm, worker, running):
        lane_of(worker, slots=1).look()
    assert farm.status(study).state == "queued"


def test_one_that_somebody_else_has_taken_meanwhile_brings_no_picture(farm: FakeFarm, worker: FakeWorker) -> None:
    running, waiting, study = submit(farm, PICTURE, PICTURE, STUDY)
    taken = farm.ledger.claim(study, "w2")
    assert taken is not None
    with held(farm, worker, running):
        worker.runner.answer(study)
    assert [farm.status(job).state for job in (waiting, study)] == ["queued", "running"]


def test_a_suspect_and_an_outage_are_survived(farm: FakeFarm, worker: FakeWorker, tmp_path: Path) -> None:
    running, suspect, study = submit(farm, PICTURE, STUDY, STUDY)
    for number in range(2):
        FakeWorker(farm, tmp_path / str(number), f"dead{number}").crash_with(suspect)
    with held(farm, worker, running):
        lane = lane_of(worker, slots=1)
        farm.ledger.outage.begin()
        lane.look()
        farm.ledger.outage.end()
        lane.look()
    assert [farm.status(job).state for job in (suspect, study)] == ["queued", "done"]


def test_a_worker_that_leaves_answers_nothing_more(farm: FakeFarm, worker: FakeWorker) -> None:
    running, study = submit(farm, PICTURE, STUDY)
    with held(farm, worker, running):
        worker.leave()
        lane_of(worker, slots=1).look()
    assert farm.status(study).state == "queued"
