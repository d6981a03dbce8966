"""Messages and records that no client of ours would write: the worker drops or fails them, and works on."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from farm import keys
from farm.client import FarmClient
from farm.jobs.status import JobStatus
from farm.queue import TASK, lists, queue_name
from tests.forgeries import BODIES, ENTRIES
from tests.integration.conftest import Worker
from tests.ledgers import a_worker
from tests.waiting import eventually

NAME = queue_name("tiny")
QUEUE = lists("tiny")[0]


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
            "delivery_info": {"exchange": "", "routing_key": NAME},
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


def test_forged_bodies_are_dropped(client: FarmClient, the_worker_still_works: Callable[[], None]) -> None:
    """Each of them by itself: see `tests/worker/queue/test_messages.py`."""
    for body in BODIES.values():
        put(client, json.dumps(body).encode())
    put(client, b"\xff\xfe not json {")

    the_worker_still_works()


def test_entries_that_are_no_messages_are_dropped(
    client: FarmClient, the_worker_still_works: Callable[[], None]
) -> None:
    client.ledger.redis.lpush(QUEUE, *ENTRIES)

    the_worker_still_works()


def test_headers_of_the_senders_choosing_are_not_followed(
    client: FarmClient, submit: Callable[..., list[str]], finish: Callable[..., list[JobStatus]], worker: Worker
) -> None:
    [job] = submit(model="nobody-listens-here")
    spec = client.ledger.spec(job).model_dump(mode="json") | {"model": "tiny"}
    client.ledger.redis.hset(f"farm:job:{job}", mapping={"model": "tiny", "spec": json.dumps(spec)})
    headers: dict[str, Any] = {
        "eta": "2999-01-01T00:00:00",
        "expires": "never",
        "timelimit": ["x", {}],
        "retries": "many",
        "chord": 7,
    }
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


def test_forged_specs_in_the_ledger_fail_with_the_reason(
    client: FarmClient,
    submit: Callable[..., list[str]],
    finish: Callable[..., list[JobStatus]],
    the_worker_still_works: Callable[[], None],
) -> None:
    jobs = dict(zip(SPECS, submit(model="nobody-serves-this", count=len(SPECS)), strict=True))
    for name, job in jobs.items():
        spec = client.ledger.spec(job).model_dump(mode="json") | {"model": "tiny"} | SPECS[name][0]
        client.ledger.redis.hset(f"farm:job:{job}", mapping={"model": "tiny", "spec": json.dumps(spec)})
        put(client, json.dumps([[job], {}, {}]).encode())

    for name, status in zip(SPECS, finish(list(jobs.values())), strict=True):
        assert status.error is not None, name
        assert (status.state, status.error.kind) == ("failed", "invalid"), name
        assert SPECS[name][1] in status.error.message
        left = {stored.key for stored in client.storage.list(keys.job_prefix(status.id))}
        assert left <= {keys.attempt_log(status.id, 1)}, name
    the_worker_still_works()


def test_strange_entries_of_the_streams_are_passed_over(
    client: FarmClient, submit: Callable[..., list[str]], the_worker_still_works: Callable[[], None]
) -> None:
    """A worker follows the cancellations, and whoever watches the events."""
    strange = ({"x": "y"}, {"cancel": "a"}, {"cancel": "a", "attempt": "many"}, {"job": "\x1b[2J", "state": "gone"})
    for entry in strange:
        client.ledger.redis.xadd("farm:control", entry)
    jobs = submit(steps=50)
    for entry in (*strange, {"job": jobs[0], "state": "done", "step": "x"}):
        client.ledger.redis.xadd("farm:events", entry)

    assert [status.state for status in client.watch(jobs)][-1] == "done"
    the_worker_still_works()


def test_a_queue_that_is_none_is_removed(
    client: FarmClient, submit: Callable[..., list[str]], the_worker_still_works: Callable[[], None]
) -> None:
    redis = client.ledger.redis
    for queue in (QUEUE, lists("tiny")[4]):  # the second is that of the default priority
        redis.delete(queue)
        redis.set(queue, "no list")

    eventually(
        lambda: not any(redis.type(queue) == "string" for queue in redis.scan_iter(f"{QUEUE}*")), "they are gone"
    )

    the_worker_still_works()


def test_a_submission_into_a_queue_that_is_none_is_queued_and_told_of_in_one_line(
    client: FarmClient, shell: Callable[..., Any]
) -> None:
    queue = lists("nobody-listens")[4]
    client.ledger.redis.set(queue, "no list")

    told = shell("submit", "txt2img", "x", "--model", "nobody-listens")

    [line] = [line for line in told.stderr.splitlines() if "WRONGTYPE" in line]
    assert "warning: the jobs are queued, but no worker could be told" in line
    assert client.ledger.waiting("nobody-listens") == 1
    assert "Traceback" not in told.stderr
    client.ledger.redis.delete(queue)


def test_a_model_that_cannot_be_one_does_not_hide_the_others(
    client: FarmClient, submit: Callable[..., list[str]], finish: Callable[..., list[JobStatus]], worker: Worker
) -> None:
    """The search for lost messages goes over all models that the ledger names, by name."""
    redis = client.ledger.redis
    redis.sadd("farm:models", "../..", "\x1b[2J")
    redis.zadd("farm:waiting:../..", {"nothing": 0})
    [job] = submit()
    redis.delete(*lists("tiny"))

    [status] = finish([job])

    assert status.state == "done"
    redis.srem("farm:models", "../..", "\x1b[2J")
    redis.delete("farm:waiting:../..")


ANNOUNCEMENTS: dict[str, Any] = {
    "no announcement": "[]",
    "nothing known": "{}",
    "words that steer a terminal": {"id": "\x1b[2J\x1b]0;x\x07"},
    "words that style a table": {"id": "[red]w[/nope]", "device": "[blink]"},
    "a long name": {"id": "w" * 10_000},
    "a model that is none": {"models": ["../.."]},
    "ten thousand models": {"models": [f"m{number}" for number in range(10_000)]},
    "a loss without a form": {"losses": [{"name": "x"}]},
    "a loss that steers a terminal": {
        "losses": [{"name": "\x1b[2J", "help": "h", "arguments": [], "default_scale": 1}]
    },
    "no time zone": {"started": "2026-01-01T00:00:00"},
    "a negative number": {"jobs": -1},
}


def test_forged_announcements_are_passed_over(client: FarmClient, shell: Callable[..., Any]) -> None:
    for name, forged in ANNOUNCEMENTS.items():
        if isinstance(forged, dict):
            forged = json.dumps(a_worker(f"forged, {name}").model_dump(mode="json") | forged)
        client.ledger.redis.set(f"farm:worker:{name}", forged)
    styled = [worker.id for worker in client.workers() if worker.id not in ("w1",) and "shared" not in worker.id]
    assert styled == ["[red]w[/nope]"], "what can be printed is shown, as it is written"

    for command in ("workers", "losses", "models", "doctor"):
        shown = shell(command)
        assert "\x1b[2J" not in shown.stdout + shown.stderr
    assert "[red]w[/nope]" in shell("workers").stdout
    assert "Traceback" not in shell("submit", "txt2img", "x", "--loss", "none-of-this-name", code=2).stderr
    for name in ANNOUNCEMENTS:
        client.ledger.redis.delete(f"farm:worker:{name}")


RECORDS: dict[str, dict[str, str]] = {
    "a state that is none": {"state": "gone"},
    "steps of no number": {"steps": "many"},
    "no steps at all": {"steps": "0"},
    "a time after the end of time": {"submitted": "9" * 30},
    "a model that steers a terminal": {"model": "\x1b[2J"},
    "labels that are no mapping": {"labels": "[1]"},
    "an error without a form": {"error": "{}"},
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_forged_record_is_told_in_one_line(
    name: str, client: FarmClient, submit: Callable[..., list[str]], shell: Callable[..., Any]
) -> None:
    [job] = submit(model="nobody-serves-this")
    before = client.ledger.redis.hgetall(f"farm:job:{job}")
    client.ledger.redis.hset(f"farm:job:{job}", mapping=RECORDS[name])

    for command in (["status", job], ["fetch", job]):
        told = shell(*command, code=1)
        assert told.stderr.startswith(f"farm: the record of job '{job}' is damaged")
        assert "\x1b" not in told.stdout + told.stderr
    listed = shell("list")
    assert listed.stderr.startswith("1 job not shown: the record is gone or damaged")
    assert "\x1b" not in listed.stdout + listed.stderr
    client.ledger.redis.delete(f"farm:job:{job}")
    client.ledger.redis.hset(f"farm:job:{job}", mapping=before)


def test_what_a_record_says_cannot_steer_the_terminal(
    client: FarmClient, submit: Callable[..., list[str]], shell: Callable[..., Any]
) -> None:
    [job] = submit(model="nobody-serves-this", prompt="\x1b[2Jan otter", labels={"a": "\x9b2J\u202e"})
    evil = {"error": json.dumps({"kind": "\x1b[2J", "message": "\x1b]0;x\x07"}), "result": "\x1b[2J"}
    client.ledger.redis.hset(f"farm:job:{job}", mapping={**evil, "warnings": json.dumps(["\x1b[2J"])})

    for command in (["status", job], ["list"], ["status", job, "--json"], ["list", "--json"], ["cancel", job]):
        shown = shell(*command)
        assert not [sign for sign in shown.stdout + shown.stderr if not sign.isprintable() and sign != "\n"]


def test_a_result_of_another_job_is_not_taken(
    client: FarmClient,
    submit: Callable[..., list[str]],
    finish: Callable[..., list[JobStatus]],
    shell: Callable[..., Any],
    worker: Worker,
) -> None:
    """Neither another's result nor another's objects are fetched as this job's."""
    first, second = submit(count=2)
    finish([first, second])
    other = client.ledger.get(second).result
    own = client.ledger.get(first).result
    assert own and other

    client.ledger.redis.hset(f"farm:job:{first}", "result", other)
    assert f"is the result of {second}" in shell("fetch", first, code=1).stderr

    forged = json.loads(client.storage.get(own))
    forged["objects"]["image.png"]["key"] = "probes/secret"
    client.storage.put("probes/secret", b"a secret", "text/plain")
    client.storage.put(own, json.dumps(forged).encode(), "application/json")
    client.ledger.redis.hset(f"farm:job:{first}", "result", own)
    assert "not a result that this version can read" in shell("fetch", first, code=1).stderr
    assert "not a result that this version can read" in shell("sheet", first, code=1).stderr

    forged["objects"]["image.png"]["key"] = keys.attempt_object(first, forged["attempt"], "image.png")
    client.storage.put(own, json.dumps(forged).encode(), "application/json")
    client.storage.put(forged["objects"]["image.png"]["key"], b"x" * 10_000_000, "image/png")
    assert "more than" in shell("fetch", first, code=1).stderr


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


def test_another_picture_under_an_init_pictures_name_is_not_rendered(
    client: FarmClient, submit: Callable[..., list[str]], finish: Callable[..., list[JobStatus]], tmp_path: Path
) -> None:
    theirs = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(theirs, "PNG")
    path = tmp_path / "mine.png"
    Image.effect_noise((64, 64), 90).convert("RGB").save(path)
    key = keys.init_image(hashlib.sha256(path.read_bytes()).hexdigest(), "png")
    client.storage.put(key, theirs.getvalue(), "image/png")

    [status] = finish(submit(mode="img2img", init=path))

    assert status.state == "failed"
    assert status.error is not None
    assert status.error.kind == "invalid"
    assert f"{key} in the bucket is not the picture that was put there" in status.error.message
