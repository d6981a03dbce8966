"""Delivering: a bucket that is away and comes back, a picture that waits on disk, a fence that refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from farm import keys
from farm.bucket.fetch import read_result
from farm.ledger.timing import Timing
from tests.fakes.worker import FakeFarm, FakeWorker


def test_a_bucket_that_is_away_and_comes_back_costs_nothing(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit(trace="numbers")
    reasons: list[str | None] = []
    keep = worker.spool.keep

    def kept(*arguments: object) -> object:
        reasons.append(worker.intake.reason)
        return keep(*arguments)  # type: ignore[arg-type]

    worker.spool.keep = kept  # type: ignore[method-assign,assignment]
    worker.at_step(5, lambda: farm.storage.outage.begin(calls=3))

    status = worker.work(job)

    assert (status.state, status.attempt) == ("done", 1)
    assert reasons == ["the bucket cannot be used: away as it was to put"], "it waits on disk, once, and says why"
    assert farm.storage.outage.refused == 3
    assert len(worker.engine.rendered) == 1
    assert worker.intake.is_open
    assert worker.spool.find(job, farm.ledger.spec(job).to_json()) is None


def test_what_was_uploaded_before_the_bucket_went_away_is_not_sent_again(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit(trace="numbers")
    put = farm.storage.put

    def goes_away_after_the_picture(key: str, data: bytes, content_type: str) -> None:
        put(key, data, content_type)
        if key.endswith("image.png") and not farm.storage.outage.refused:
            farm.storage.outage.begin(calls=2)

    farm.storage.put = goes_away_after_the_picture  # type: ignore[method-assign]

    assert worker.work(job).state == "done"
    assert farm.storage.put_order.count(keys.attempt_object(job, 1, "image.png")) == 1


def test_a_picture_that_waits_on_disk_is_not_rendered_again_by_the_next_worker(farm: FakeFarm, tmp_path: Path) -> None:
    worker, heir = FakeWorker(farm, tmp_path), FakeWorker(farm, tmp_path, "w2")
    [job] = farm.submit(trace="numbers")
    worker.at_step(5, farm.storage.outage.begin)

    assert worker.work(job).state == "queued", "its patience has an end"

    farm.storage.outage.end()
    status = heir.work(job)
    assert (status.state, status.attempt, status.worker) == ("done", 2, "w2")
    assert not heir.engine.rendered
    result = read_result(farm.storage, keys.attempt_result(job, 2))
    assert set(result.objects) == {"image.png", "trace.jsonl"}
    assert not (tmp_path / "spool" / job).exists()


def test_a_picture_of_another_spec_is_rendered(farm: FakeFarm, tmp_path: Path) -> None:
    """The job was forgotten and submitted again under its id, with other wishes."""
    worker = FakeWorker(farm, tmp_path)
    [job] = farm.submit()
    worker.at_step(5, farm.storage.outage.begin)
    worker.work(job)
    other = FakeFarm()
    heir = FakeWorker(other, tmp_path, "w2")
    assert other.submit(prompt="an otter") == [job]

    assert heir.work(job).state == "done"
    assert len(heir.engine.rendered) == 1


def test_a_job_that_is_cancelled_as_it_waits_for_the_bucket_is_let_go(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit()
    keep = worker.spool.keep

    def cancelled_as_it_waits(*arguments: object) -> object:
        farm.ledger.cancel(job)
        worker.hear()
        return keep(*arguments)  # type: ignore[arg-type]

    worker.spool.keep = cancelled_as_it_waits  # type: ignore[method-assign,assignment]
    worker.at_step(5, farm.storage.outage.begin)

    assert worker.work(job).state == "cancelled"
    assert worker.spool.find(job, farm.ledger.spec(job).to_json()) is None, "nothing waits for it"
    assert worker.intake.is_open


def test_a_worker_that_leaves_does_not_wait_for_the_bucket(farm: FakeFarm, tmp_path: Path) -> None:
    worker = FakeWorker(farm, tmp_path, timing=Timing(again=60.0))
    [job] = farm.submit()
    worker.at_step(5, farm.storage.outage.begin, worker.leave)

    assert worker.work(job).state == "queued"
    assert worker.spool.find(job, farm.ledger.spec(job).to_json()) is not None


def test_a_finish_that_comes_too_late_is_refused_and_promotes_nothing(farm: FakeFarm, tmp_path: Path) -> None:
    zombie, heir = FakeWorker(farm, tmp_path / "1"), FakeWorker(farm, tmp_path / "2", "w2")
    [job] = farm.submit()

    def sleeps() -> None:
        farm.ledger.renew("w1", [(job, 1, 5)], lease=-1.0)
        farm.ledger.reap()
        assert heir.work(job).state == "done"

    zombie.at_step(5, sleeps)

    status = zombie.work(job)

    assert (status.attempt, status.worker) == (2, "w2")
    assert read_result(farm.storage, keys.result(job)).attempt == 2
    assert zombie.runner.done == 0


@pytest.mark.parametrize("call", ["finish", "promoted"])
def test_an_answer_that_was_lost_is_asked_for_again(farm: FakeFarm, worker: FakeWorker, call: str) -> None:
    [job] = farm.submit()
    farm.ledger.outage.lose_answer_to(call)

    status = worker.work(job)

    assert (status.state, status.attempt) == ("done", 1)
    assert farm.storage.exists(keys.result(job))


def test_a_ledger_that_is_away_at_the_finish_is_waited_for(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit()
    worker.at_step(5, lambda: farm.ledger.outage.begin(calls=3))

    status = worker.work(job)

    assert (status.state, status.attempt, farm.ledger.outage.refused) == ("done", 1, 3)


def test_a_ledger_that_stays_away_leaves_the_job_to_its_lease(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit()
    worker.at_step(5, farm.ledger.outage.begin)

    worker.runner.run(job)

    farm.ledger.outage.end()
    assert farm.status(job).state == "running", "nobody has said otherwise"
    assert farm.storage.exists(keys.attempt_result(job, 1))
    assert not farm.storage.exists(keys.result(job))
