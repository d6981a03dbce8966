"""Hundreds of random entries in the queue of a real worker, at every priority; it drops them all, and works on."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from farm import keys
from farm.client import FarmClient
from farm.jobs.status import JobStatus
from farm.queue import TASK, lists, queue_name
from tests.fuzzing import anything, fuzz, spoilt, words
from tests.integration.conftest import Worker
from tests.waiting import eventually
from worker.queue.messages import job_named_by, wake_up

JOB = "0" * 16 + "-0000"
"""The id of no job."""
QUEUE = queue_name("tiny")
QUEUES = lists("tiny")

bodies = st.one_of(
    st.binary(max_size=60),
    anything.map(lambda value: json.dumps(value).encode()),
    spoilt([[JOB], {}, {"callbacks": None, "chain": None}]).map(lambda value: json.dumps(value).encode()),
)
messages = st.one_of(
    spoilt(wake_up(JOB, QUEUE)),
    bodies.map(lambda body: wake_up(JOB, QUEUE) | {"body": base64.b64encode(body).decode()}),
    st.tuples(spoilt(wake_up(JOB, QUEUE)["headers"]), words).map(
        lambda parts: wake_up(JOB, QUEUE) | {"headers": parts[0], "content-encoding": parts[1]}
    ),
    # What kombu's JSON makes objects of.
    st.tuples(st.sampled_from(("datetime", "date", "time", "uuid", "decimal", "bytes", "base64", "x")), anything).map(
        lambda pair: {"__type__": pair[0], "__value__": pair[1]}
    ),
    anything,
)
entries = st.one_of(messages.map(lambda value: json.dumps(value).encode()), st.binary(max_size=100))


@fuzz(320)
@given(messages)
def test_a_message_names_a_job_or_none(message: Any) -> None:
    job = job_named_by(message)
    assert job is None or keys.is_job_id(job)
    if job is not None:
        assert message["headers"]["task"] == TASK


def test_a_worker_drops_them_and_works_on(
    client: FarmClient, worker: Worker, submit: Callable[..., list[str]], finish: Callable[..., list[JobStatus]]
) -> None:
    redis = client.ledger.redis

    @fuzz(25)
    @given(st.lists(st.tuples(st.sampled_from(QUEUES), entries), min_size=20, max_size=40))
    def put(forged: list[tuple[str, bytes]]) -> None:
        pipeline = redis.pipeline()
        for queue, entry in forged:
            pipeline.lpush(queue, entry)
        pipeline.execute()
        eventually(lambda: client.queue.depth("tiny") == 0, "every entry is taken")
        assert worker.process.poll() is None, worker.log.read_text(encoding="utf-8")[-4_000:]

    before = client.ledger.counts()
    put()
    [status] = finish(submit())

    assert status.state == "done"
    assert worker.process.poll() is None
    assert client.ledger.counts()["done"] == before["done"] + 1
    assert "Traceback" not in worker.log.read_text(encoding="utf-8")
