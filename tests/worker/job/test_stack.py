"""What a job adds to its model: fetched and read before it is rendered, and its own fault where that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from farm import keys
from farm.bucket.results import JobResult
from farm.jobs.loras import LoraUse
from tests.fakes.adapters import DAMAGED, PARTLY, UNFIT, put_lora
from tests.fakes.worker import FakeFarm, FakeWorker


def asked(use: LoraUse, **weights: float) -> dict[str, Any]:
    return {"name": use.name, "sha256": use.sha256, **weights}


def stacks(worker: FakeWorker) -> list[list[tuple[str, float, float]]]:
    """What the engine was asked to add, job by job."""
    return [[(use.adapter.name, use.unet, use.text) for use in request.stack] for request in worker.engine.rendered]


def test_a_job_is_rendered_with_its_loras_and_its_result_names_them(farm: FakeFarm, worker: FakeWorker) -> None:
    one, two = put_lora(farm.storage, b"one", "one"), put_lora(farm.storage, b"two", "two")
    [job] = farm.submit(loras=[asked(one, weight=0.8), asked(two, unet=-1, text=0.5)])
    assert worker.work(job).state == "done"

    assert stacks(worker) == [[("one", 0.8, 0.8), ("two", -1, 0.5)]]
    result = JobResult.from_json(farm.storage.get(keys.result(job)), key="result")
    assert [(use.name, use.sha256) for use in result.spec.loras] == [("one", one.sha256), ("two", two.sha256)]


def test_its_model_gets_ready_for_them_before_the_engine_has_the_job(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit(loras=[asked(put_lora(farm.storage, b"one"), weight=0.8)])
    known: list[bool] = []

    def note() -> None:
        [request] = worker.engine.rendered
        model: Any = request.model
        known.append(model.ready == [request.stack])

    worker.engine.before_each = note
    assert worker.work(job).state == "done"
    assert known == [True]


def test_one_without_any_strength_is_not_even_fetched(farm: FakeFarm, worker: FakeWorker) -> None:
    gone = LoraUse(name="gone", sha256="0" * 64)
    [job] = farm.submit(loras=[asked(gone, weight=0)])
    assert worker.work(job).state == "done"
    assert stacks(worker) == [[]]


def test_one_that_is_used_in_part_is_told_with_every_picture(farm: FakeFarm, worker: FakeWorker) -> None:
    whole, partly = put_lora(farm.storage, b"whole", "whole"), put_lora(farm.storage, PARTLY, "partly")
    renamed = put_lora(farm.storage, PARTLY, "renamed")

    def told(*loras: dict[str, Any]) -> tuple[str, ...]:
        [job] = farm.submit(batch=keys.new_batch_id(), loras=list(loras))
        assert worker.work(job).state == "done"
        warnings = JobResult.from_json(farm.storage.get(keys.result(job)), key="result").warnings
        return tuple(line for line in warnings if "LoRA" in line)

    said = "the LoRA '{}' is used in part with the model 'tiny': " + UNFIT
    assert told(asked(whole), asked(partly)) == (said.format("partly"),)
    assert told(asked(renamed)) == (said.format("renamed"),), "read before, under another name"
    assert told(asked(whole), asked(partly, weight=0)) == ()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (DAMAGED, "the LoRA 'bad' cannot be loaded: nonsense (fetch it again)"),
        (None, "the farm keeps the file of the LoRA 'bad' no longer"),
    ],
    ids=["damaged", "gone"],
)
def test_a_lora_that_cannot_be_had_fails_its_job_alone(
    farm: FakeFarm, worker: FakeWorker, data: bytes | None, said: str
) -> None:
    good = put_lora(farm.storage, b"good")
    bad = LoraUse(name="bad", sha256="0" * 64) if data is None else put_lora(farm.storage, data, "bad")
    [job] = farm.submit(loras=[asked(good), asked(bad)])
    failed = worker.work(job)

    assert failed.state == "failed" and failed.error
    assert failed.error.kind == "lora" and failed.error.message.startswith(said)
    assert worker.engine.rendered == []


def test_a_job_that_goes_on_elsewhere_has_the_same_loras(farm: FakeFarm, tmp_path: Path) -> None:
    first, second = (FakeWorker(farm, tmp_path / name, name) for name in ("w1", "w2"))
    [job] = farm.submit(loras=[asked(put_lora(farm.storage, b"one"), weight=0.5)])
    first.at_step(3, first.leave)
    assert first.work(job).state == "queued"

    assert second.work(job).state == "done"
    assert second.engine.rendered[0].resume is not None
    assert stacks(first) == stacks(second) == [[("detail", 0.5, 0.5)]]


def test_a_bucket_that_comes_back_is_waited_for(farm: FakeFarm, worker: FakeWorker) -> None:
    [job] = farm.submit(loras=[asked(put_lora(farm.storage, b"one"))])
    farm.storage.outage.begin(1)
    assert worker.work(job).state == "done"
    assert stacks(worker) == [[("detail", 1, 1)]]
