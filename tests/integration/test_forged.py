"""Messages and records that no client of ours would write: the worker drops or fails them, and works on."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from farm import keys
from farm.client import FarmClient
from farm.jobs import JobStatus
from farm.queue import TASK, queue_name
from tests.integration.conftest import Worker
from tests.waiting import eventually

QUEUE = queue_name("tiny")

BODIES: dict[str, Any] = {
    "no arguments": [[], {}, {}],
    "too many arguments": [["a", "b"], {}, {}],
    "a number": [[7], {}, {}],
    "a nested list": [[[["x"]]], {}, {}],
    "an id that climbs": [["../../etc/passwd"], {}, {}],
    "an id with a line break": [["0000000000000000-0000\n"], {}, {}],
    "a job that is not there": [["0000000000000000-0000"], {}, {}],
    "a very long id": [["0" * 1_000_000], {}, {}],
    "unknown keywords": [[], {"job": "x", "command": "rm"}, {}],
    "not a list": {"what": "ever"},
    "nothing": None,
}


def put(
    client: FarmClient, body: bytes, *, task: str = TASK, content_type: str = "application/json", **headers: Any
) -> None:
    """A message in Celery's form, put straight into the queue."""
    message = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": content_type,
        "headers": {"lang": "py", "task": task, "id": "forged", **headers},
        "properties": {
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "delivery_tag": "forged",
            "body_encoding": "base64",
        },
    }
    client.ledger.redis.lpush(QUEUE, json.dumps(message))


@pytest.fixture
def the_worker_still_works(
    client: FarmClient, worker: Worker, submit: Callable[..., list[str]], finish: Callable[..., list[JobStatus]]
) -> Callable[[], None]:
    def check() -> None:
        eventually(lambda: client.ledger.redis.llen(QUEUE) == 0, "the forged message is taken")
        [status] = finish(submit())
        assert status.state == "done"
        assert worker.process.poll() is None

    return check


@pytest.mark.parametrize("name", BODIES)
def test_a_forged_body_is_dropped(name: str, client: FarmClient, the_worker_still_works: Callable[[], None]) -> None:
    put(client, json.dumps(BODIES[name]).encode())

    the_worker_still_works()


def test_a_body_that_is_not_json_is_dropped(client: FarmClient, the_worker_still_works: Callable[[], None]) -> None:
    put(client, b"\xff\xfe not json {")

    the_worker_still_works()


ENTRIES = (
    *("garbage", "", "[]", "7", "null", '{"body": 1}', "[" * 100_000, '{"properties": {}}'),
    # What kombu's JSON turns into objects, or stumbles over.
    *('{"__type__": [], "__value__": 1}', '{"__type__": "datetime", "__value__": 5}'),
    *('{"__type__": "bytes", "__value__": 5}', '{"__type__": "decimal", "__value__": "x"}'),
)


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry[:40] or "empty" for entry in ENTRIES])
def test_an_entry_that_is_no_message_is_dropped(
    entry: str, client: FarmClient, the_worker_still_works: Callable[[], None]
) -> None:
    client.ledger.redis.lpush(QUEUE, entry)

    the_worker_still_works()


def test_headers_of_the_senders_choosing_are_not_followed(
    client: FarmClient, submit: Callable[..., list[str]], finish: Callable[..., list[JobStatus]], worker: Worker
) -> None:
    [job] = submit(model="nobody-listens-here")
    spec = client.ledger.spec(job).model_dump(mode="json") | {"model": "tiny"}
    client.ledger.redis.hset(f"farm:job:{job}", mapping={"model": "tiny", "spec": json.dumps(spec)})
    headers = {"eta": "2999-01-01T00:00:00", "expires": "never", "timelimit": ["x", {}], "retries": "many", "chord": 7}
    put(client, json.dumps([[job], {}, {"callbacks": [{"task": TASK}], "chain": 1}]).encode(), **headers)

    [status] = finish([job])

    assert status.state == "done"


def test_an_unknown_task_is_dropped(client: FarmClient, the_worker_still_works: Callable[[], None]) -> None:
    put(client, b"[[], {}, {}]", task="os.system")

    the_worker_still_works()


def test_a_pickle_is_never_opened(
    client: FarmClient, the_worker_still_works: Callable[[], None], tmp_path: Any
) -> None:
    mark = tmp_path / "opened"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (mark.touch, ())

    put(client, pickle.dumps([[Bomb()], {}, {}]), content_type="application/x-python-serialize")

    the_worker_still_works()
    assert not mark.exists()


SPECS: dict[str, tuple[dict[str, Any], str]] = {
    "no steps": ({"steps": 0}, "greater than or equal to 1"),
    "endless steps": ({"steps": 10**9}, "less than or equal to 1000"),
    "a huge picture": ({"width": 1_000_000, "height": 1_000_000}, "less than or equal to 2048"),
    "no number": ({"guidance": {"scale": "NaN"}}, "finite"),
    "a stranger's loss": (
        {"guidance": {"losses": [{"name": "shell", "scale": 1, "arguments": {}}]}},
        "there is no loss 'shell'",
    ),
    "an image outside of inputs": (
        {"start": {"image": {"sha256": "../../secret", "extension": "png"}, "step": 1}},
        "match pattern",
    ),
    "an image that is not there": (
        {"start": {"image": {"sha256": "0" * 64, "extension": "png"}, "step": 1}},
        "is not in the bucket",
    ),
    "code": ({"__import__": "os"}, "not permitted"),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_forged_spec_in_the_ledger_fails_with_the_reason(
    name: str,
    client: FarmClient,
    submit: Callable[..., list[str]],
    finish: Callable[..., list[JobStatus]],
    the_worker_still_works: Callable[[], None],
) -> None:
    change, reason = SPECS[name]
    [job] = submit(model="nobody-serves-this")
    spec = client.ledger.spec(job).model_dump(mode="json") | {"model": "tiny"} | change
    client.ledger.redis.hset(f"farm:job:{job}", mapping={"model": "tiny", "spec": json.dumps(spec)})

    put(client, json.dumps([[job], {}, {}]).encode())

    [status] = finish([job])
    assert status.state == "failed"
    assert status.error is not None
    assert status.error.kind == "invalid"
    assert reason in status.error.message
    assert not list(client.storage.list(keys.job_prefix(job)))
    the_worker_still_works()


def test_a_message_delivered_many_times_renders_once(
    client: FarmClient, submit: Callable[..., list[str]], finish: Callable[..., list[JobStatus]], worker: Worker
) -> None:
    [job] = submit(steps=100)
    for _ in range(5):
        put(client, json.dumps([[job], {}, {}]).encode())

    [status] = finish([job])

    assert (status.state, status.attempt) == ("done", 1)


def test_a_message_that_was_lost_is_sent_again(
    client: FarmClient, submit: Callable[..., list[str]], finish: Callable[..., list[JobStatus]], worker: Worker
) -> None:
    [job] = submit(model="nobody-serves-this-either")
    spec = client.ledger.spec(job).model_dump(mode="json") | {"model": "tiny"}
    redis = client.ledger.redis
    redis.hset(f"farm:job:{job}", mapping={"model": "tiny", "spec": json.dumps(spec)})
    redis.zadd("farm:waiting:tiny", {job: redis.zscore("farm:waiting:nobody-serves-this-either", job)})

    [status] = finish([job])

    assert status.state == "done"
