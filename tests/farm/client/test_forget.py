"""Jobs that are over leave the ledger, and those that are not never do."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from farm import keys
from farm.cli.commands.forget import forget as forget_command
from farm.client import FarmClient
from farm.client.forget import expire, forget, forgotten_of
from farm.client.recover import recover
from farm.jobs.request import JobRequest
from farm.jobs.status import State
from worker.results.retention import Retention

ENDS: tuple[State, ...] = ("done", "failed")


def a_batch_with_every_state(client: FarmClient) -> dict[str, str]:
    """Jobs by the state they are in."""
    jobs = client.submit([JobRequest(prompt="an otter", model="emoji", count=5)]).jobs
    for job, state in zip(jobs, ENDS, strict=False):
        claim = client.ledger.claim(job, "w")
        assert claim and client.ledger.finish(claim, "w", state, {})
        client.storage.put(keys.attempt_object(job, 1, "image.png"), b"x", "image/png")
    client.ledger.cancel(jobs[2])
    assert client.ledger.claim(jobs[3], "w")
    return {status.state: status.id for status in client.ledger.get_many(jobs)}


def test_only_what_is_over_is_forgotten_with_all_that_names_it(client: FarmClient) -> None:
    jobs = a_batch_with_every_state(client)

    forgotten = forget(client.ledger, client.storage, list(jobs.values()), objects=False)

    assert set(forgotten) == {jobs[state] for state in ("done", "failed", "cancelled")}
    assert {status.id for status in client.list()} == {jobs["queued"], jobs["running"]}
    assert client.ledger.counts() == {"queued": 1, "running": 1, "done": 0, "failed": 0, "cancelled": 0}
    named = [
        name
        for name in client.ledger.redis.scan_iter("farm:*", _type="zset")
        if any(client.ledger.redis.zscore(name, job) is not None for job in forgotten)
    ]
    assert named == []
    assert client.storage.exists(keys.attempt_object(jobs["done"], 1, "image.png")), "unless it is asked for"


def test_what_is_forgotten_is_not_recovered_unless_it_is_submitted_again(client: FarmClient) -> None:
    jobs = a_batch_with_every_state(client)
    batch = keys.batch_of(jobs["done"])
    forgotten = forget(client.ledger, client.storage, [jobs["cancelled"], jobs["failed"]], objects=True)
    client.ledger.redis.flushdb()

    recover(client)

    assert client.ledger.batch(batch) == sorted(set(jobs.values()) - set(forgotten))
    assert not list(client.storage.list(keys.job_prefix(jobs["failed"])))

    client.submit([JobRequest(prompt="an otter", model="emoji")], batch=batch)
    assert client.ledger.batch(batch) == sorted(jobs.values())


def test_with_its_last_job_a_batch_leaves_the_bucket(client: FarmClient) -> None:
    jobs = client.submit([JobRequest(prompt="an otter", model="emoji", count=2)]).jobs
    client.cancel(jobs)

    forget(client.ledger, client.storage, jobs, objects=True)

    batch = keys.batch_of(jobs[0])
    assert not client.storage.exists(keys.batch_manifest(batch))
    assert not forgotten_of(client.storage, batch).jobs
    assert client.ledger.batch(batch) == []


def test_by_age_and_state(client: FarmClient) -> None:
    jobs = a_batch_with_every_state(client)

    assert list(expire(client.ledger, client.storage, older_than=60, objects=False)) == []
    assert list(expire(client.ledger, client.storage, older_than=-1, states=["failed"], objects=False)) == [
        [jobs["failed"]]
    ]
    assert client.ledger.get(jobs["done"]).state == "done"


def test_retention_is_off_unless_it_is_set(client: FarmClient) -> None:
    jobs = a_batch_with_every_state(client)
    Retention(client.ledger, client.storage, {}).see_to_it()
    assert client.ledger.counts()["done"] == 1
    client.ledger.redis.zadd("farm:state:done", {jobs["done"]: 1})

    Retention(client.ledger, client.storage, {"FARM_RETENTION": "30d"}).see_to_it()

    assert client.ledger.counts()["done"] == 0
    assert client.ledger.counts()["failed"] == 1


def test_the_command(client: FarmClient, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = a_batch_with_every_state(client)
    monkeypatch.setattr(FarmClient, "connect", lambda: FarmClient(client.settings))

    dry = CliRunner().invoke(forget_command, [jobs["done"], "--dry-run", "--json"])
    assert jobs["done"] in dry.stdout and client.ledger.get(jobs["done"])
    assert CliRunner().invoke(forget_command, [jobs["done"]], input="n\n").exit_code == 1
    assert client.ledger.get(jobs["done"])
    done = CliRunner().invoke(forget_command, [keys.batch_of(jobs["done"]), "--yes"])
    assert done.stdout == "3 jobs forgotten\n"
    at_work = CliRunner().invoke(forget_command, [jobs["running"], "--yes"])
    assert "queued or running" in str(at_work.exception)
