"""Which results become a job's own, where its worker has not come to say so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from farm import keys
from farm.client import FarmClient
from farm.jobs.request import JobRequest
from farm.ledger.timing import Timing
from farm.settings import Settings
from tests.fakes.ledger import FakeLedger
from tests.fakes.storage import FakeStorage
from tests.fakes.worker import FakeFarm, FakeWorker
from tests.farm.rendering import Rendering, render
from worker.results.promote import Promoter


@pytest.fixture
def client(servers: Settings) -> Iterator[FarmClient]:
    with FarmClient(servers) as made:
        made.ledger.redis.flushdb()
        yield made


@pytest.fixture
def promoter(client: FarmClient) -> Promoter:
    return Promoter(client.storage, client.ledger, Timing(unpromoted=0.0))


def rendered(client: FarmClient, count: int = 1) -> list[Rendering]:
    return [render(client, job) for job in client.submit([JobRequest(prompt="an otter", count=count)]).jobs]


def test_a_result_that_was_accepted_becomes_the_jobs(client: FarmClient, promoter: Promoter) -> None:
    [made] = rendered(client)
    promoter.promote_missing()
    assert client.storage.get(keys.result(made.job)) == client.result(made.job).to_json()
    assert client.ledger.unpromoted(older_than=-1.0) == {}


@pytest.mark.parametrize("which", ["another job's", "the picture", "another's secret", "an enormous object"])
def test_what_a_record_says_cannot_promote_anything_else(client: FarmClient, promoter: Promoter, which: str) -> None:
    made, other = rendered(client, 2)
    client.storage.put("probes/secret", b'{"a": "secret"}', "application/json")
    client.storage.put(made.key("large.json"), bytes(5 * 2**20), "application/json")
    named = {
        "another job's": keys.attempt_result(other.job, other.attempt),
        "the picture": made.key("image.png"),
        "another's secret": "probes/secret",
        "an enormous object": made.key("large.json"),
    }[which]
    client.ledger.redis.hset(f"farm:job:{made.job}", "result", named)

    promoter.promote_missing()

    assert not client.storage.exists(keys.result(made.job))
    assert client.storage.exists(keys.result(other.job)), "the others have theirs all the same"


def died_before_promoting(farm: FakeFarm, worker: FakeWorker) -> str:
    """A job that is done, whose worker did not come to say so in the bucket."""
    [job] = farm.submit()
    worker.runner.promoter = Promoter(FakeStorage(), FakeLedger())
    assert worker.work(job).state == "done"
    assert not farm.storage.exists(keys.result(job))
    return job


@pytest.fixture
def farm() -> FakeFarm:
    return FakeFarm()


def test_what_one_who_died_did_not_promote_another_does(farm: FakeFarm, tmp_path: Path) -> None:
    job = died_before_promoting(farm, FakeWorker(farm, tmp_path))

    FakeWorker(farm, tmp_path, "w2").promoter.promote_missing()

    assert farm.storage.get(keys.result(job)) == farm.storage.get(keys.attempt_result(job, 1))
    assert farm.ledger.unpromoted(older_than=0.0) == {}


def test_not_before_its_worker_had_time_to(farm: FakeFarm, tmp_path: Path) -> None:
    job = died_before_promoting(farm, FakeWorker(farm, tmp_path))

    Promoter(farm.storage, farm.ledger, Timing(unpromoted=60.0)).promote_missing()

    assert not farm.storage.exists(keys.result(job))


@pytest.mark.parametrize("where", ["storage", "ledger"])
def test_what_cannot_be_promoted_now_is_later(farm: FakeFarm, tmp_path: Path, where: str) -> None:
    job = died_before_promoting(farm, FakeWorker(farm, tmp_path))
    promoter = FakeWorker(farm, tmp_path, "w2").promoter
    if where == "storage":
        farm.storage.outage.begin(calls=1)
    else:
        farm.ledger.outage.lose_answer_to("promoted")

    promoter.promote_missing()
    promoter.promote_missing()

    assert farm.storage.exists(keys.result(job))
