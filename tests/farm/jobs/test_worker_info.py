"""What a worker announces: read by older and newer clients, and bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from farm import keys
from farm.jobs.status import MemoryUse, WorkerInfo
from tests.ledgers import a_worker


def test_models_that_are_not_served_are_told_with_their_reasons() -> None:
    worker = a_worker(refused={"bad": "it is\na LoRA" + "!" * 1_000})
    read = WorkerInfo.model_validate_json(worker.model_dump_json())
    assert read == worker
    assert read.refused["bad"].startswith("it is a LoRA!!!")
    assert len(read.refused["bad"]) == 500


def test_an_older_worker_says_nothing_of_them() -> None:
    record = json.loads(a_worker().model_dump_json())
    del record["refused"]
    assert WorkerInfo.model_validate(record).refused == {}


@pytest.mark.parametrize("refused", [{"No Model": "x"}, {"bad": 1}, ["bad"], {f"m{k}": "x" for k in range(1_001)}])
def test_rubbish_is_refused(refused: object) -> None:
    record = {**json.loads(a_worker().model_dump_json()), "refused": refused}
    with pytest.raises(ValidationError):
        WorkerInfo.model_validate(record)


def test_a_worker_is_called_what_its_id_says_without_what_tells_its_processes_apart() -> None:
    assert {id: a_worker(id).name for id in ("gpu-7-0-0a1b", "a-b-0a1g", "0a1b", "-0a1b", "w")} == {
        "gpu-7-0-0a1b": "gpu-7-0",
        "a-b-0a1g": "a-b-0a1g",
        "0a1b": "0a1b",
        "-0a1b": "-0a1b",
        "w": "w",
    }
    assert a_worker(keys.new_worker_id("gpu-7")).name == "gpu-7"


@pytest.mark.parametrize(
    ("fields", "condition"),
    [
        ({}, "ready"),
        ({"state": "starting", "paused": "x", "drained": True}, "starting"),
        ({"state": "draining", "paused": "it is leaving", "drained": True}, "draining"),
        ({"paused": "its disk is full"}, "paused"),
        ({"paused": "its disk is full", "drained": True}, "drained"),
    ],
)
def test_the_condition_says_whether_it_takes_jobs(fields: dict[str, Any], condition: str) -> None:
    assert a_worker(**fields).condition == condition


def test_of_memory_an_older_worker_says_nothing_and_nobody_can_say_nonsense() -> None:
    record = json.loads(a_worker(rows=3, max_rows=32, host_memory=MemoryUse(total=8, used=5, own=2)).model_dump_json())
    known = WorkerInfo.model_validate(record).host_memory
    assert known is not None and known.taken == 5
    assert MemoryUse(total=8, used=9).taken == 8, "no more than there is"
    assert MemoryUse(total=8, own=2).taken == 2
    assert MemoryUse(total=8).taken is None
    for name in ("rows", "max_rows", "device_memory", "host_memory", "drained"):
        del record[name]
    older = WorkerInfo.model_validate(record)
    assert (older.rows, older.host_memory, older.drained) == (None, None, False)
    for nonsense in ({"total": 0}, {"total": -1}, {"total": 8, "own": -1}, {"total": 2**60}, {"used": 1}, "much"):
        with pytest.raises(ValidationError):
            WorkerInfo.model_validate({**record, "host_memory": nonsense})
