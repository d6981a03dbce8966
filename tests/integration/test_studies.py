"""Studies, from the shell to a worker's answer and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from farm import keys
from farm.client import FarmClient, recover
from farm.errors import RenderError
from farm.jobs.request import JobRequest
from farm.jobs.spec import JobSpec, Start
from farm.jobs.status import JobStatus, Waiting
from farm.ledger.records import NewJob
from tests.integration.conftest import LONG, Worker
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("worker")

Shell = Callable[..., Any]
Finish = Callable[[list[str]], list[JobStatus]]
CONTROL = "a cat\x1b[31m in the red"


def test_tokens_from_the_shell(shell: Shell, client: FarmClient, finish: Finish, tmp_path: Path) -> None:
    told = json.loads(shell("tokens", CONTROL, "--model", "tiny", "--npz", "cat.npz", "--json").stdout)

    assert [token["role"] for token in told["tokens"]].count("padding") + told["tokens"][-1]["position"] > 76
    assert (told["prompt"], len(told["tokens"])) == ("a cat [31m in the red", 77)
    with np.load(tmp_path / "cat.npz", allow_pickle=False) as arrays:
        assert arrays["output"].shape == (77, 32)
        norms = np.linalg.norm(arrays["output"], axis=1)
    assert [token["norms"]["output"] for token in told["tokens"]] == pytest.approx(norms.tolist(), abs=1e-5)
    newest = client.list(limit=1)[0]
    assert (newest.state, newest.priority, newest.step, newest.steps) == ("done", 9, 1, 1)


def test_similar(client: FarmClient) -> None:
    answer = client.ask(JobRequest(mode="similar", prompt=("a cat", "an otter", "a cat"), model="tiny")).answer
    assert answer.cosines[0][2] == pytest.approx(1) and answer.cosines[0][1] == answer.cosines[1][0] < 1


def test_a_schedule_of_a_model_of_the_farm(shell: Shell) -> None:
    [told] = json.loads(shell("schedule", "--model", "tiny", "--sampler", "Heun", "--steps", "6", "--json").stdout)
    assert (told["sampler"], len(told["levels"]), len(told["evaluations"])) == ("heun", 6, 11)
    assert told["levels"][0]["sigma"] == pytest.approx(14.6146, abs=1e-4)


def test_a_round_trip_from_the_shell(shell: Shell, client: FarmClient, picture: Path, tmp_path: Path) -> None:
    noise = ("--noise-step", "4", "--noise-step", "10", "--steps", "15")
    answer = shell(
        *["submit", "roundtrip", "--init", str(picture), "--encode", "mean", "--seed", "7", *noise],
        *["--model", "tiny", "--label", "of=otters", "--out", "renders", "--json"],
    )
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    job, told = lines[0]["jobs"][0], lines[-1]

    assert (told["study"], told["pixels"], told["latents"], told["numbers"]) == (
        *("roundtrip", [64, 64]),
        *([4, 8, 8], [12_288, 256]),
    )
    with Image.open(tmp_path / "renders" / f"{job}.png") as decoded, Image.open(picture) as original:
        apart = np.asarray(decoded, float) - np.asarray(original, float)
    assert told["psnr"] == pytest.approx(10 * np.log10(255**2 / np.mean(apart**2)))
    files = {str(path.relative_to(tmp_path / "renders" / job)) for path in (tmp_path / "renders" / job).rglob("*.*")}
    assert files == {
        *("answer.json", "result.json", "original.png", "difference.png", "strip.png"),
        *(f"latents/{number}.png" for number in range(4)),
        *("noised/0004.png", "noised/0010.png"),
    }
    assert [one["step"] for one in told["noised"]] == [4, 10]
    assert told["noised"][0]["sigma"] > told["noised"][1]["sigma"]
    status = client.ledger.get(job)
    assert (status.priority, status.labels, status.prompt) == (9, {"of": "otters"}, "(roundtrip)")

    page = shell("trace", job).stdout
    assert page.startswith(f"{job}.trace.html  a round trip, ")
    again = json.loads(shell("rerun", str(tmp_path / "renders" / f"{job}.png"), "--dry-run", "--json").stdout)
    assert again["jobs"][0]["spec"] == json.loads(client.result(job).spec.to_json())


def test_an_init_that_is_no_picture_hurts_nobody(
    shell: Shell, client: FarmClient, finish: Finish, picture: Path
) -> None:
    """The command refuses it; put there by a forger, it is the job's own fault."""
    request = JobRequest(mode="roundtrip", prompt="", init=picture.read_bytes(), model="nobody")
    submission = client.submit([request])
    spec = submission.specs[0].of_model("tiny")
    data = b"<svg/>"
    digest = hashlib.sha256(data).hexdigest()
    client.storage.put(keys.init_image(digest, "png"), data, "image/png")
    forged = spec.model_copy(
        update={
            "start": Start.model_validate({"image": {"sha256": digest, "extension": "png", "width": 8, "height": 8}})
        }
    )
    job = f"{submission.batch}-0001"
    client.ledger.create(submission.batch, [NewJob(job, forged, 9, {})])
    client.queue.publish([Waiting(job, "tiny", 9)])

    [status] = finish([job])

    assert status.error and status.error.kind == "invalid"
    assert "is not a PNG, JPEG or WebP image" in status.error.message


def test_a_study_outlives_redis(client: FarmClient) -> None:
    job = client.ask(JobRequest(mode="similar", prompt=("a cat", "an otter"), model="tiny")).result.job
    client.ledger.redis.delete(client.ledger._key("job", job))

    recover.recover(client)

    assert client.ledger.get(job).state == "done"
    assert client.result(job).spec.mode == "similar"


def test_a_forged_study_fails_alone(client: FarmClient, finish: Finish) -> None:
    """Specs that no client makes: each fails in a line, and the worker goes on."""
    good = JobRequest(mode="tokens", prompt="a cat", model="tiny").specs(None, default_model="tiny")[0]
    whole = json.loads(good.to_json())
    forged = {
        "an unknown kind": {**whole, "mode": "attention"},
        "a prompt too long": {**whole, "conditioning": {"prompts": [{"text": "z" * 4_001, "weight": 1}]}},
        "no picture": {**whole, "mode": "roundtrip"},
        "late noise": {**whole, "noise_steps": [3]},
    }
    submitted = client.submit([JobRequest(prompt="a cat", model="nobody", count=len(forged))])
    for job, spec in zip(submitted.jobs, forged.values(), strict=True):
        client.ledger.redis.hset(client.ledger._key("job", job), mapping={"spec": json.dumps(spec), "model": "tiny"})
    client.queue.publish(Waiting(job, "tiny", 5) for job in submitted.jobs)

    for name, status in zip(forged, finish(list(submitted.jobs)), strict=True):
        assert (status.state, status.error and status.error.kind) == ("failed", "invalid"), name
        assert status.error and "\n" not in status.error.message
    assert client.ask(JobRequest(mode="tokens", prompt="a cat", model="tiny")).answer.width == 32


def test_a_control_character_in_a_forged_prompt_steers_nobody(client: FarmClient, finish: Finish, shell: Shell) -> None:
    spec = JobSpec.from_json(
        json.dumps(
            {
                **{"mode": "tokens", "model": "tiny", "steps": 1, "seed": 0},
                "conditioning": {"prompts": [{"text": CONTROL + " zzz" * 90}]},
            }
        )
    )
    submitted = client.submit([JobRequest(prompt="a cat", model="nobody")])
    client.ledger.create(submitted.batch, [NewJob(f"{submitted.batch}-0001", spec, 9, {})])
    client.queue.publish([Waiting(f"{submitted.batch}-0001", "tiny", 9)])
    [status] = finish([f"{submitted.batch}-0001"])
    assert status.state == "done", status.error
    shown = shell("list").stdout + shell("status", status.id).stdout
    assert "\x1b" not in shown


def test_a_study_that_fails_says_why(client: FarmClient) -> None:
    with pytest.raises(RenderError, match=r"has no answer: steps: 'ddim' does not have 1000 distinct noise levels"):
        client.ask(JobRequest(mode="schedule", prompt="", sampler="ddim", steps=1_000, model="tiny"))


def test_a_study_goes_ahead_of_pictures(
    client: FarmClient, launch: Callable[..., Worker], submit: Callable[..., list[str]], finish: Finish
) -> None:
    """Those that wait and, of a worker whose slots are all taken, those that it is rendering."""
    waiting = submit(model="narrow", count=2)
    asked = client.submit([JobRequest(mode="tokens", prompt="a cat", model="narrow")]).jobs[0]
    launch("narrow", "--slots", "1", model="narrow")
    first, *others = sorted(finish([asked, *waiting]), key=lambda status: status.finished or status.submitted)
    assert (first.id, first.state, len(others)) == (asked, "done", 2)

    [picture] = submit(model="narrow", **LONG)
    eventually(lambda: client.ledger.get(picture).step > 0, "it is rendering")
    assert client.ask(JobRequest(mode="tokens", prompt="a cat", model="narrow")).answer.width == 32
    assert client.ledger.get(picture).state == "running"
    client.cancel([picture])
