"""Messages that are lost, doubled and many: they only wake workers up, and the ledger is what counts."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from farm import keys
from farm.bucket.manifest import read_manifest
from farm.client import FarmClient
from farm.errors import LedgerUnavailable
from farm.jobs.request import JobRequest
from farm.jobs.status import Waiting
from farm.ledger.records import NewJob
from farm.queue import lists
from tests.faults.farm import FaultyFarm
from tests.faults.plugin import paced
from tests.faults.processes import Process
from tests.faults.proxy import Proxy
from tests.waiting import eventually

MANY = 2_500
"""Several times what is read, written and sent at once."""


def queues(farm: FaultyFarm, model: str) -> list[str]:
    """The lists in Redis that hold a model's messages, one a priority."""
    return list(farm.client.ledger.redis.scan_iter(f"{lists(model)[0]}*", _type="list"))


def messages(farm: FaultyFarm, model: str) -> list[tuple[str, str]]:
    """Every message that waits for a worker of a model, with the list that it is in."""
    return [(name, text) for name in queues(farm, model) for text in farm.client.ledger.redis.lrange(name, 0, -1)]


@pytest.fixture
def worker(farm: FaultyFarm) -> Process:
    """The one that takes the messages of `tiny`. It runs."""
    worker = farm.workers.get("taker") or farm.worker("taker")
    if not worker.is_running:
        farm.start(worker)
    return worker


@pytest.fixture
def proxy(farm: FaultyFarm) -> Iterator[Proxy]:
    """Another way to Redis, which loses answers when told to."""
    proxy = Proxy(urlsplit(farm.where.redis_url).port or 0)
    yield proxy
    proxy.close()


def address_through(proxy: Proxy, farm: FaultyFarm) -> str:
    address = urlsplit(farm.where.redis_url)
    return address._replace(netloc=address.netloc.replace(f":{address.port}", f":{proxy.port}")).geturl()


@pytest.fixture
def lossy(farm: FaultyFarm, proxy: Proxy) -> Iterator[tuple[Proxy, FarmClient]]:
    """A client whose connections to Redis lose answers when told to."""
    with FarmClient(replace(farm.where, redis_url=address_through(proxy, farm))) as client:
        yield proxy, client


def test_a_message_that_was_popped_and_never_claimed_is_sent_again(farm: FaultyFarm) -> None:
    """As by a worker that died between the two."""
    jobs = farm.submit(count=3)
    assert len(messages(farm, "tiny")) == 3
    for name in queues(farm, "tiny"):
        farm.client.ledger.redis.delete(name)

    farm.start(worker := farm.worker("taker"))

    assert {(status.state, status.attempt) for status in farm.until_over(jobs)} == {("done", 1)}
    assert "publishing 3 queued jobs of 'tiny' again" in worker.last_words


def test_a_message_that_comes_five_times_is_one_job(farm: FaultyFarm, worker: Process, chance: random.Random) -> None:
    jobs = farm.submit(count=4, steps=20, **paced(0.1))
    for _ in range(4):
        time.sleep(chance.uniform(0, 0.5))
        farm.client.queue.publish(Waiting(job, "tiny", chance.randrange(10)) for job in jobs)
    farm.until_over(jobs)
    farm.client.queue.publish(Waiting(job, "tiny", 5) for job in jobs)
    last = farm.submit()

    assert {(status.state, status.attempt) for status in farm.until_over(jobs + last)} == {("done", 1)}
    for job in jobs:
        assert len(farm.history.claims(job)) == 1


def test_a_claim_that_was_granted_and_never_heard_of_is_taken_up(farm: FaultyFarm, proxy: Proxy) -> None:
    """Redis is out of its worker's reach just then, for longer than a client tries again by itself."""
    far = farm.worker("far", model="far", environment={"FARM_REDIS_URL": address_through(proxy, farm)})
    farm.start(far)
    proxy.lose_answer_to("claim", stay_away=True)
    [job] = farm.submit(model="far")
    eventually(lambda: proxy.lost, "the claim is lost")
    eventually(lambda: farm.statuses([job])[0].state == "running", "and granted")
    eventually(lambda: "leases cannot be renewed" in far.last_words, "its worker is cut off")
    proxy.come_back()

    [status] = farm.until_over([job])

    assert (status.state, status.attempt) == ("done", 1)
    assert [happening.why for happening in farm.history.of(job) if happening.why] == []
    farm.retire(far)


def test_a_submission_whose_answer_is_lost_on_the_way_is_one(
    farm: FaultyFarm, worker: Process, lossy: tuple[Proxy, FarmClient]
) -> None:
    proxy, client = lossy
    proxy.lose_answer_to("create")

    submission = client.submit([JobRequest(prompt="a cat", model="tiny", steps=3, count=3)])

    assert proxy.lost == 1
    farm.submitted += submission.jobs
    assert farm.client.ledger.batch(submission.batch) == list(submission.jobs)
    assert {(s.state, s.attempt) for s in farm.until_over(submission.jobs)} == {("done", 1)}


@pytest.mark.parametrize("how", ["by sending it again", "by farm recover"])
def test_a_submission_that_failed_is_completed(farm: FaultyFarm, worker: Process, how: str) -> None:
    """Redis dies when the specs are stored and before the jobs are recorded; the error tells what to do."""
    request, batch = JobRequest(prompt="a cat", model="tiny", steps=3, count=3), keys.new_batch_id()
    create = farm.client.ledger.create

    def dies_before_it(batch: str, jobs: Sequence[NewJob]) -> list[str]:
        farm.redis.kill()
        return create(batch, jobs)

    with farm.fault("redis killed"):
        farm.client.ledger.create = dies_before_it  # type: ignore[method-assign]
        try:
            with pytest.raises(LedgerUnavailable, match=f"batch {batch} is stored.*'farm recover'"):
                farm.client.submit([request], batch=batch)
        finally:
            farm.client.ledger.create = create  # type: ignore[method-assign]
        farm.redis.start()
        farm.wait_for_redis()
    stored = read_manifest(farm.client.storage, batch)

    if how == "by farm recover":
        farm.shell("recover")
    else:
        sent = [farm.client.submit([request], batch=batch) for _ in range(2)]
        assert sent[0].specs == sent[1].specs == tuple(job.spec for job in stored.jobs), "its seeds stay"

    jobs = [job.id for job in stored.jobs]
    assert farm.client.ledger.batch(batch) == jobs
    farm.submitted += jobs
    assert {(s.state, s.attempt) for s in farm.until_over(jobs)} <= {("done", 1), ("done", 101)}


def test_jobs_that_no_message_could_be_sent_for_are_queued_all_the_same(
    farm: FaultyFarm, worker: Process, lossy: tuple[Proxy, FarmClient]
) -> None:
    proxy, client = lossy
    request = JobRequest(prompt="a cat", model="tiny", steps=3, count=3)
    create = client.ledger.create

    def network_ends_after_it(batch: str, jobs: Sequence[NewJob]) -> list[str]:
        queued = create(batch, jobs)
        proxy.close()
        return queued

    client.ledger.create = network_ends_after_it  # type: ignore[method-assign]
    submission = client.submit([request])

    assert "the jobs are queued, but no worker could be told" in submission.warnings[-1]
    farm.submitted += submission.jobs
    assert {(s.state, s.attempt) for s in farm.until_over(submission.jobs)} == {("done", 1)}


def test_thousands_of_jobs_are_listed_cancelled_and_drained(farm: FaultyFarm, chance: random.Random) -> None:
    jobs = farm.submit(model="crowd", count=MANY, steps=2)
    assert farm.client.ledger.waiting("crowd") == MANY
    # A reaper that comes by while they are being published sends some of them another, which wakes nobody up in vain.
    assert len(messages(farm, "crowd")) >= MANY
    newest = farm.client.list(state="queued", limit=50, offset=chance.randrange(MANY - 50))
    assert len({status.id for status in newest} & set(jobs)) == 50

    kept = set(chance.sample(jobs, 25))
    farm.client.cancel(job for job in jobs if job not in kept)
    worker = farm.worker("drainer", model="crowd")
    farm.start(worker)

    over = {status.id: status.state for status in farm.until_over(jobs)}
    assert {job for job, state in over.items() if state == "done"} == kept
    assert {state for job, state in over.items() if job not in kept} == {"cancelled"}
    farm.retire(worker)
