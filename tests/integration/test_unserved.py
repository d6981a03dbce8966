"""A worker that was given a model which cannot be loaded, among others or alone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from farm.bucket.storage import Storage
from farm.client import FarmClient
from farm.jobs.request import JobRequest
from farm.jobs.status import JobStatus
from farm.settings import Settings
from tests import launching
from tests.integration.conftest import Launcher
from tests.launching import Forked
from tests.waiting import eventually


def test_the_others_are_served(
    launch: Launcher,
    client: FarmClient,
    shell: Callable[..., subprocess.CompletedProcess[str]],
    finish: Callable[[list[str]], list[JobStatus]],
    tmp_path: Path,
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    others = ("--model", f"lost={tmp_path / 'nowhere'}", "--model", "pickled=old.ckpt")
    worker = launch("picky", "--model", f"broken={bad}", *others, model="whole")
    (info,) = [info for info in client.workers() if info.id.startswith("picky-")]
    assert (info.models, info.warm) == (("whole",), ("whole",))
    assert info.refused.keys() == {"broken", "lost", "pickled"}
    assert "is not a directory here" in info.refused["lost"] or "is not a model source" in info.refused["lost"]
    assert "is pickled, which can run code" in info.refused["pickled"]
    assert "the model 'broken' has no" in info.refused["broken"]
    assert "the model 'broken' is not served: the model 'broken' has no" in worker.log.read_text()

    submission = client.submit([request("broken"), request("whole")])
    waiting, done = submission.jobs
    assert finish([done])[0].state == "done"
    assert client.ledger.get(waiting).state == "queued"
    (warning,) = submission.warnings
    assert f"no live worker serves the model 'broken'; its jobs wait until one does ({info.id}: the model" in warning

    assert f"{info.id} does not serve broken: the model" in " ".join(shell("workers").stderr.split())
    (told,) = [told for told in json.loads(shell("workers", "--json").stdout) if told["id"] == info.id]
    assert told["refused"] == info.refused
    checks: list[dict[str, Any]] = json.loads(shell("doctor", "--json").stdout)["checks"]
    (check,) = [check for check in checks if check["name"] == "workers"]
    assert check["verdict"] == "warn"
    assert f"{info.id} does not serve broken" in check["detail"]
    client.cancel([waiting])


_ON_A_FULL_DISK = """
import pathlib, shutil, sys, types
import worker.models.service as service
from worker.__main__ import main

full, measured = pathlib.Path(sys.argv.pop()), shutil.disk_usage
shutil.disk_usage = lambda path: types.SimpleNamespace(free=0) if full.exists() else measured(path)
service.FIRST_WAIT = service.LONGEST_WAIT = 0.2
main()
"""
"""A worker that never waits long, on a disk that is full as long as the file exists that is its last argument."""


def test_a_model_that_can_be_had_later_is_served_then(
    client: FarmClient,
    where: Settings,
    environment: dict[str, str],
    finish: Callable[[list[str]], list[JobStatus]],
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    for file in (path for path in tiny_model.rglob("*") if path.is_file()):
        Storage(where).put(f"models/late/{file.relative_to(tiny_model)}", file.read_bytes(), "application/octet-stream")
    models = ("--model", f"early={tiny_model}", "--model", f"late=s3://{where.s3_bucket}/models/late")
    full, log = tmp_path / "full", tmp_path / "patient.log"
    full.touch()
    arguments = ("--name", "patient", "--device", "cpu", *models, str(full))
    process = Forked(arguments, environment=environment, log=log, script=_ON_A_FULL_DISK)
    try:
        eventually(lambda: _served_by("patient", client) == ("early",), "the first is served")
        (job,) = client.submit([request("late")]).jobs
        full.unlink()
        assert finish([job])[0].state == "done"
        eventually(lambda: _served_by("patient", client) == ("early", "late"), "the second is announced")
    finally:
        process.kill()
        process.wait()
    assert log.read_text(encoding="utf-8").count("the model 'late' is not served") == 1


def _served_by(name: str, client: FarmClient) -> tuple[str, ...]:
    return next((w.models for w in client.workers() if w.id.startswith(f"{name}-") and w.state == "ready"), ())


def test_a_local_farm_comes_up_with_the_others(
    shell: Callable[..., subprocess.CompletedProcess[str]], tiny_model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "adapter.safetensors"
    save_file({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.zeros(1)}, file)
    models = ("--model", f"good={tiny_model}", "--model", f"bad={file}#config={tiny_model}")
    elsewhere = str(tmp_path / "home")
    try:
        told = shell("up", "--detach", "--no-web", *models, FARM_HOME=elsewhere)
        (worker,) = json.loads(shell("workers", "--json", FARM_HOME=elsewhere).stdout)
    finally:
        shell("down", FARM_HOME=elsewhere)
    assert (worker["state"], worker["models"]) == ("ready", ["good"])
    assert "is a LoRA, not a checkpoint that can be loaded" in worker["refused"]["bad"]
    assert f"{worker['id']} does not serve bad: " in " ".join(told.stderr.split())


def test_a_worker_without_any_ends_with_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "page.safetensors"
    file.write_text("<html>")
    source = f"page={file}#config={tmp_path}"
    done = launching.run(("--device", "cpu", "--model", source), environment=environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot be loaded: it is a web page, not the file itself" in done.stderr.splitlines()[-2]


def request(model: str) -> JobRequest:
    return JobRequest.parse({"prompt": "a cat", "model": model, "steps": 2, "seed": 1})


def test_a_worker_that_is_asked_to_leave_while_it_loads_leaves_in_order(
    environment: dict[str, str], home: Path, client: FarmClient, tiny_model: Path, tmp_path: Path
) -> None:
    """And nobody is told afterwards that it was killed."""
    models = [word for number in range(12) for word in ("--model", f"early{number}={tiny_model}")]
    log = tmp_path / "early.log"
    process = Forked(("--name", "early", "--device", "cpu", *models), environment=environment, log=log)
    try:
        eventually(lambda: "loading the model 'early1'" in log.read_text(encoding="utf-8"), "the second is loaded")
        starting = eventually(lambda: [w for w in client.workers() if w.id.startswith("early-")], "it is announced")
        assert set(starting[0].models) < {f"early{number}" for number in range(12)}, "only what is loaded is served"
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()

    assert "leaving before it is ready" in log.read_text(encoding="utf-8")
    assert not [path for path in (home / "crashes").iterdir() if path.name.startswith("early-")]
    assert not [worker for worker in client.workers() if worker.id.startswith("early-")]
