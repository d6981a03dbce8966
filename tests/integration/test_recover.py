"""Redis is lost with all it held; the bucket gives the farm back."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from farm import keys
from farm.client import FarmClient
from farm.client.recover import recover
from farm.jobs.status import JobStatus
from tests.waiting import eventually

Submit = Callable[..., list[str]]
Finish = Callable[[list[str]], list[JobStatus]]


@pytest.mark.usefixtures("worker")
def test_finished_work_is_kept_and_the_rest_is_done(
    client: FarmClient, submit: Submit, finish: Finish, shell: Callable[..., Any]
) -> None:
    finished = submit(count=3)
    finish(finished)
    waiting = submit(model="not-served-yet", priority=8, labels={"who": "me"})
    before = {job: client.result(job) for job in finished}
    client.ledger.redis.flushall()

    told = json.loads(shell("recover", "--json").stdout)

    assert told["damaged"] == []
    assert told["done"] >= 3
    assert [status.state for status in client.ledger.get_many(finished)] == ["done"] * 3
    assert {job: client.result(job) for job in finished} == before
    [again] = client.ledger.get_many(waiting)
    assert (again.state, again.priority, again.labels) == ("queued", 8, {"who": "me"})


@pytest.mark.usefixtures("worker")
def test_a_job_that_was_running_is_rendered(client: FarmClient, submit: Submit, finish: Finish) -> None:
    jobs = submit(count=2, steps=100)
    client.ledger.redis.flushall()

    recover(client)

    assert [status.state for status in finish(jobs)] == ["done"] * 2


def test_recovering_twice_changes_nothing(client: FarmClient, submit: Submit) -> None:
    [job] = submit(model="nobody-at-all")
    before = client.ledger.get(job)

    recover(client)

    assert client.ledger.get(job) == before


def test_a_forged_manifest_is_named_and_makes_no_job(client: FarmClient, submit: Submit) -> None:
    """Ids of another batch, of no form, or twice; priorities and labels that no job may have."""
    [job] = submit(model="nobody-at-all")
    true = json.loads(client.storage.get(keys.batch_manifest(keys.batch_of(job))))
    forged: list[str] = []
    changes: list[dict[str, Any]]
    changes = [{"id": job}, {"id": "../../x"}, {"priority": 99}, {"labels": {"\x1b": "x"}}, {"spec": {}}, {}]
    for change in changes:
        batch = keys.new_batch_id()
        own = true["jobs"][0] | {"id": keys.job_in_batch(batch, 0)}
        jobs = [own | change] if change else [own, own]
        forged.append(keys.batch_manifest(batch))
        client.storage.put(forged[-1], json.dumps({"batch": batch, "jobs": jobs}).encode(), "application/json")
    other = keys.batch_manifest(keys.new_batch_id())
    client.storage.put(other, json.dumps(true).encode(), "application/json")
    client.ledger.redis.flushall()

    found = recover(client)

    assert set(found.damaged) == {*forged, other}
    assert client.ledger.get(job).state == "queued"
    assert all(not client.ledger.batch(key.removeprefix("batches/").removesuffix(".json")) for key in found.damaged)
    for key in found.damaged:
        client.storage.delete(key)


@pytest.mark.usefixtures("worker")
def test_a_damaged_result_does_not_count_and_stops_nothing(client: FarmClient, submit: Submit, finish: Finish) -> None:
    """Of three jobs, one's results are all damaged, another's is hidden behind forged ones, the third's are well."""
    first, second, third = jobs = submit(count=3)
    finish(jobs)
    promoted = [keys.result(job) for job in jobs]
    eventually(lambda: all(map(client.storage.exists, promoted)), "what is damaged now is written by nobody later")
    true = {job: client.result(job) for job in jobs}
    put = partial(client.storage.put, content_type="application/json")
    put(keys.result(first), b"{half")
    put(keys.attempt_result(first, true[first].attempt), b"[]")
    put(keys.attempt_result(first, 7), client.storage.get(keys.result(third)))
    put(keys.attempt_object(first, 99_999_999, "x.json"), b"an attempt that nobody made")
    put(keys.result(second), client.storage.get(keys.result(third)))
    put(keys.attempt_result(second, 8), b"\xff")
    client.ledger.redis.flushall()

    recover(client)

    statuses = finish(jobs)
    assert [status.state for status in statuses] == ["done"] * 3
    assert statuses[0].attempt > true[first].attempt, "it was rendered again"
    assert {job: client.result(job) for job in (second, third)} == {job: true[job] for job in (second, third)}
    assert client.storage.get(keys.result(second)) == client.storage.get(
        keys.attempt_result(second, true[second].attempt)
    )


def test_a_damaged_manifest_is_named_and_the_others_are_recovered(client: FarmClient, submit: Submit) -> None:
    [job] = submit(model="nobody-at-all")
    damaged = keys.batch_manifest(keys.new_batch_id())
    client.storage.put(damaged, b"{half", "application/json")
    client.ledger.redis.flushall()

    found = recover(client)

    assert found.damaged == (damaged,)
    assert client.ledger.get(job).state == "queued"
    client.storage.delete(damaged)
