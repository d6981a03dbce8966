"""What a message names, whatever there is in its place: read without a worker. One drops them all in
`tests/integration/test_forged.py`."""

from __future__ import annotations

import base64
import json
import pickle
from typing import Any

import pytest

from farm import keys
from farm.queue import queue_name
from tests.forgeries import BODIES, ENTRIES
from worker.queue.messages import job_named_by, jobs_named, wake_up

JOB = keys.job_in_batch(keys.new_batch_id(), 3)


def message(body: bytes, **changes: Any) -> dict[str, Any]:
    return {**wake_up(JOB, queue_name("tiny")), "body": base64.b64encode(body).decode(), **changes}


def test_a_message_of_ours_names_its_job() -> None:
    assert job_named_by(wake_up(JOB, queue_name("tiny"))) == JOB
    assert job_named_by(message(json.dumps([[JOB], {}, {"callbacks": [1]}]).encode())) == JOB


@pytest.mark.parametrize("name", BODIES)
def test_a_forged_body_names_none(name: str) -> None:
    named = job_named_by(message(json.dumps(BODIES[name]).encode()))
    assert named == ("0000000000000000-0000" if name == "a job that is not there" else None)


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry[:40] or "empty" for entry in ENTRIES])
def test_an_entry_that_is_no_message_names_none_and_hides_no_other(entry: str) -> None:
    assert jobs_named([entry, json.dumps(wake_up(JOB, queue_name("tiny")))]) == {JOB}


def test_neither_does_one_in_another_form_or_of_another_task() -> None:
    good = json.dumps([[JOB], {}, {}]).encode()
    assert job_named_by(message(b"\xff\xfe not json {")) is None
    assert job_named_by({**message(good), "body": "*" * 80}) is None
    assert job_named_by(message(good, headers={"task": "os.system"})) is None
    assert job_named_by(message(pickle.dumps([[JOB], {}, {}]))) is None
    assert job_named_by(message(good, **{"content-type": "application/x-python-serialize"})) is None
    assert job_named_by(message(json.dumps([[JOB], {}, {"x": "x" * 10_000}]).encode())) is None
