"""What a worker announces: read by older and newer clients, and bounded."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from farm.jobs.status import WorkerInfo
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
