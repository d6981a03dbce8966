"""Workers that are asked to leave: spot machines, `docker stop`, evictions, Ctrl-C."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from farm import keys
from tests.faults.farm import FaultyFarm
from tests.faults.plugin import paced
from tests.faults.processes import Process
from tests.waiting import eventually

STEPS = 24
LEISURELY = {"steps": STEPS, **paced(0.1)}
"""Long enough to be caught in the middle."""

KINDS: dict[str, dict[str, Any]] = {
    "txt2img by lms, with a video": {"sampler": "lms", "trace": "video"},
    "txt2img by a sampler that adds noise": {"sampler": "euler_a"},
    "txt2img by a multistep sampler": {"sampler": "dpmpp_2m", "trace": "numbers"},
    "mix, guided, from an image": {
        "mode": "mix",
        "prompt": ["a cat", "an otter"],
        "mix": 0.5,
        "start_step": 4,
    },
}


def objects(farm: FaultyFarm, job: str) -> dict[str, bytes]:
    """What a job has made, by name."""
    return {name: farm.client.storage.get(one.key) for name, one in farm.client.result(job).objects.items()}


def checkpoints(farm: FaultyFarm, job: str) -> list[str]:
    """The checkpoints of a job that are in the bucket."""
    return [o.key for o in farm.client.storage.list(keys.job_prefix(job)) if o.key.endswith("checkpoint.safetensors")]


@pytest.fixture
def deterministic_pair(farm: FaultyFarm) -> tuple[Process, Process]:
    options = ("--deterministic", "--rows", "8")
    two = farm.worker("leaver", *options, model="same"), farm.worker("heir", *options, model="same")
    farm.start(two[0])
    return two


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_goes_on_elsewhere_from_its_step_and_ends_with_the_same_bytes(
    farm: FaultyFarm, deterministic_pair: tuple[Process, Process], kind: str, chance: random.Random, tmp_path: Path
) -> None:
    leaver, heir = deterministic_pair
    fields = {"model": "same", "seed": chance.randrange(1000), **LEISURELY, **KINDS[kind]}
    if "start_step" in fields:
        Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(tmp_path / "init.png")
        fields["init"] = str(tmp_path / "init.png")
    [undisturbed] = farm.submit(**fields)
    farm.until_over([undisturbed])
    [job] = farm.submit(**fields)
    farm.until_running([job], step=chance.randrange(3, 9))

    with farm.fault("SIGTERM", leaver, may_cost=True):
        leaver.ask_to_leave()
        assert leaver.wait() == 0
    [left] = farm.statuses([job])
    assert (left.state, left.attempt) == ("queued", 1)
    assert 0 < left.step < left.steps, "the ledger says how far it has got"
    assert checkpoints(farm, job) == [keys.checkpoint(job, 1)]
    steps_before = (farm.flags / "paces").read_text(encoding="utf-8").count("\n")
    farm.start(heir)
    [done] = farm.until_over([job])

    assert (done.state, done.attempt) == ("done", 2)
    steps_after = (farm.flags / "paces").read_text(encoding="utf-8").count("\n")
    assert steps_after - steps_before == left.steps - left.step, "no step was done twice"
    assert objects(farm, job) == objects(farm, undisturbed)
    eventually(lambda: not checkpoints(farm, job), "its heir has removed what it went on from")
    farm.retire(heir)


def test_a_full_worker_is_gone_at_once_and_all_its_jobs_go_on(
    farm: FaultyFarm, pair: tuple[Process, Process], chance: random.Random
) -> None:
    jobs = farm.submit(count=24, steps=30, **paced(0.1, every=5))
    running = eventually(lambda: farm.held_by(pair[0], jobs), "the leaver has jobs")
    farm.until_running(running, step=chance.randrange(1, 5))

    with farm.fault("SIGTERM", pair[0], may_cost=True):
        pair[0].ask_to_leave()
        assert pair[0].wait() == 0

    left = {status.id: status for status in farm.statuses(running)}
    assert not [status for status in left.values() if status.state == "running" and status.attempt == 1]
    over = farm.until_over(jobs)
    assert {status.state for status in over} == {"done"}
    assert {status.attempt for status in over if status.id in running} == {2}


def test_what_has_had_its_last_step_is_finished(farm: FaultyFarm, pair: tuple[Process, Process]) -> None:
    jobs = farm.submit(count=8, steps=6)
    leaver = pair[1]

    with farm.fault("SIGTERM", leaver, may_cost=True):
        leaver.ask_to_leave()
        assert leaver.wait() == 0

    assert {status.state for status in farm.until_over(jobs)} == {"done"}


def test_a_second_signal_ends_it_at_once_and_the_jobs_are_queued(farm: FaultyFarm) -> None:
    leaver = farm.worker("impatient", "--grace", "600", model="twice")
    farm.start(leaver)
    jobs = farm.submit(model="twice", count=3, **LEISURELY)
    farm.until_running(jobs)

    with farm.without_s3(), farm.fault("SIGTERM twice", leaver, may_cost=True):  # so that it has something to wait for
        leaver.ask_to_leave()
        eventually(lambda: "leaving: 3 jobs" in leaver.last_words, "it has begun to leave")
        leaver.ask_to_leave()
        assert leaver.wait() == 128 + signal.SIGTERM

    assert {status.state for status in farm.statuses(jobs)} == {"queued"}
    farm.start(leaver)
    assert {status.state for status in farm.until_over(jobs)} == {"done"}
    farm.retire(leaver)


def test_it_is_gone_within_its_grace_even_without_a_bucket(farm: FaultyFarm) -> None:
    leaver = farm.worker("stuck", "--grace", "3", model="stuck")
    farm.start(leaver)
    jobs = farm.submit(model="stuck", count=3, **LEISURELY)
    farm.until_running(jobs)

    with farm.frozen(farm.s3), farm.fault("SIGTERM", leaver, may_cost=True):
        began = time.monotonic()
        leaver.ask_to_leave()
        assert leaver.wait() == 0
        assert time.monotonic() - began < 45, "three seconds, and much for a busy machine; the bucket takes minutes"

    assert {status.state for status in farm.statuses(jobs)} == {"queued"}
    assert "out of time: 3 jobs go back as they are" in leaver.last_words
    assert leaver.name not in farm.shell("workers")
    farm.start(leaver)
    assert {status.state for status in farm.until_over(jobs)} == {"done"}
    farm.retire(leaver)
