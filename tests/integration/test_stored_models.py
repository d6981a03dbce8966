"""Models that the farm keeps: workers that were given none of their own render with them."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from farm import keys
from farm.bucket.models import read_model
from farm.client import FarmClient
from farm.client.models import add, remove
from farm.jobs.request import JobRequest
from farm.jobs.status import JobStatus, WorkerInfo
from tests.integration.conftest import Launcher
from tests.launching import Forked
from tests.tiny import build_tiny_model
from tests.waiting import eventually

Shell = Callable[..., subprocess.CompletedProcess[str]]
Finish = Callable[[list[str]], list[JobStatus]]


def request(model: str, **fields: Any) -> JobRequest:
    return JobRequest.parse({"prompt": "a cat", "model": model, "steps": 5, "seed": 1, **fields})


def live(client: FarmClient, name: str) -> WorkerInfo:
    return next(worker for worker in client.workers() if worker.id.startswith(f"{name}-"))


def has_only(client: FarmClient, worker: str, model: str) -> bool:
    return live(client, worker).warm == (model,)


def picture_of(client: FarmClient, job: str) -> str:
    return client.result(job).objects["image.png"].sha256


def test_what_is_added_is_served_without_a_restart_and_makes_the_same_pictures(
    client: FarmClient, launch: Launcher, shell: Shell, finish: Finish, tiny_model: Path, tmp_path: Path
) -> None:
    own = launch("own", "--deterministic", model="kept")
    [before] = client.submit([request("kept")]).jobs
    finish([before])
    own.kill()
    launch("early", "--deterministic", model=None)
    assert live(client, "early").models == ("emoji",)

    added = json.loads(shell("models", "add", f"kept={tiny_model}", "--json").stdout)
    assert added["sent"] == added["size"]
    eventually(lambda: live(client, "early").models == ("emoji", "kept"), "it is served")
    submission = client.submit([request("kept")])
    [after] = finish(list(submission.jobs))

    assert submission.warnings == ()
    assert (after.state, after.attempt, (after.worker or "")[:5]) == ("done", 1, "early")
    assert picture_of(client, after.id) == picture_of(client, before)
    source = client.result(after.id).model.source
    assert source == f"farm:kept@{read_model(client.storage, 'kept').fingerprint[:16]}"
    eventually(lambda: live(client, "early").warm == ("emoji", "kept"), "it is announced to be in memory")
    [told] = [one for one in json.loads(shell("models", "--json").stdout) if one["name"] == "kept"]
    assert (told["warm"], told["workers"]) == ([live(client, "early").id],) * 2

    other = build_tiny_model(tmp_path / "other", seed=1)
    fingerprint = add(client.ledger, client.storage, "kept", str(other), replace=True).model.fingerprint
    [job] = finish(list(client.submit([request("kept")]).jobs))
    assert client.result(job.id).model.source == f"farm:kept@{fingerprint[:16]}", "no job after it has the one before"
    told = shell("rerun", after.id, "--wait").stdout
    assert f"model        then {source}, now farm:kept@{fingerprint[:16]}" in told
    assert "the model 'kept' has other weights than it had then" in told and "--deterministic" not in told
    back = add(client.ledger, client.storage, "kept", str(tiny_model), replace=True).model.fingerprint
    [job] = finish(list(client.submit([request("kept")]).jobs))
    assert client.result(job.id).model.source == f"farm:kept@{back[:16]}"

    remove(client.ledger, client.storage, "kept")
    eventually(lambda: live(client, "early").models == ("emoji",), "it is not served any more")
    submission = client.submit([request("kept")])
    assert "no live worker serves the model 'kept'" in submission.warnings[0]
    assert client.ledger.get(submission.jobs[0]).state == "queued"
    client.cancel(submission.jobs)


_STOPS_IN_A_FETCH = """
import pathlib, sys, time
import worker.bucket.model_cache as cache
from worker.__main__ import main

flag = pathlib.Path(sys.argv.pop())

class Stuck(cache._Hashing):
    def write(self, data):
        super().write(data[:10])
        self._file.flush()
        flag.touch()
        time.sleep(600)

cache._Hashing = Stuck
main()
"""


_WITH_LITTLE_MEMORY = """
import worker.means
from worker.__main__ import main

worker.means.model_budget = lambda _: 1
main()
"""
"""A worker in whose memory no two models find room."""


def test_a_worker_with_room_for_one_model_goes_from_one_to_another_as_jobs_ask_for_them(
    client: FarmClient, finish: Finish, environment: dict[str, str], tmp_path: Path
) -> None:
    for seed, name in enumerate(("first", "second"), start=20):
        add(client.ledger, client.storage, name, str(build_tiny_model(tmp_path / name, seed=seed)))
    log = tmp_path / "narrow.log"
    arguments = ("--name", "narrow", "--device", "cpu", "--model", "first", "--model", "second")
    process = Forked(arguments, environment=environment, log=log, script=_WITH_LITTLE_MEMORY)
    try:
        eventually(lambda: [w for w in client.workers() if w.id.startswith("narrow-") and w.state == "ready"], "ready")
        for name in ("first", "second"):
            statuses = finish(list(client.submit([request(name, count=4)]).jobs))
            assert {(status.state, status.attempt) for status in statuses} == {("done", 1)}
            eventually(partial(has_only, client, "narrow", name), f"only {name} is in memory")
        both = [job for name in ("first", "second") for job in client.submit([request(name, count=4)]).jobs]
        assert {status.state for status in finish(both)} == {"done"}
    finally:
        process.kill()
        process.wait()
    said = log.read_text(encoding="utf-8")
    assert "Traceback" not in said
    assert said.count("for which jobs wait") <= 4, "once for each time that jobs asked for another"
    for name in ("first", "second"):
        remove(client.ledger, client.storage, name)


def test_two_workers_share_what_is_on_the_disk_and_go_on_where_a_third_was_killed_in_a_fetch(
    client: FarmClient,
    launch: Launcher,
    finish: Finish,
    environment: dict[str, str],
    home: Path,
    tmp_path: Path,
) -> None:
    folder = build_tiny_model(tmp_path / "model", seed=7)
    kept = add(client.ledger, client.storage, "shared", str(folder)).model
    flag, log = tmp_path / "flag", tmp_path / "stuck.log"
    arguments = ("--name", "stuck", "--device", "cpu", "--model", "shared", str(flag))
    stuck = Forked(arguments, environment=environment, log=log, script=_STOPS_IN_A_FETCH)
    try:
        eventually(flag.exists, "it is in the midst of a fetch")
    finally:
        stuck.kill()
        stuck.wait()
    blobs = home / "models" / "farm" / "blobs"
    assert [path for path in blobs.iterdir() if path.name.endswith(".part")]

    logs = [launch(name, "--model", "shared", model=None).log for name in ("left", "right")]
    jobs = client.submit([request("shared", count=6)]).jobs

    assert {status.state for status in finish(list(jobs))} == {"done"}
    on_disk = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in blobs.iterdir()}
    assert all(name == found for name, found in on_disk.items()), "whole, and nothing else"
    assert kept.blobs.keys() <= on_disk.keys()
    assert sum("fetching the model 'shared'" in log.read_text(encoding="utf-8") for log in logs) == 1
    remove(client.ledger, client.storage, "shared")


def test_a_model_that_is_damaged_in_the_bucket_is_refused_in_one_line_until_it_is_mended(
    client: FarmClient, launch: Launcher, shell: Shell, finish: Finish, tmp_path: Path
) -> None:
    folder = build_tiny_model(tmp_path / "model", seed=8)
    kept = add(client.ledger, client.storage, "damaged", str(folder)).model
    unet = kept.files["unet/diffusion_pytorch_model.safetensors"]
    client.storage.put(keys.model_blob(unet.sha256), bytes(unet.size), "application/octet-stream")
    careful = launch("careful", model=None)
    [job] = client.submit([request("damaged")]).jobs

    eventually(lambda: "damaged" in live(client, "careful").refused, "it is refused")
    said = careful.log.read_text(encoding="utf-8")
    assert said.count("came damaged from the bucket") == 2, "it was fetched once more"
    assert said.count("the model 'damaged' is not served") == 1
    assert "Traceback" not in said
    assert "mend it: 'farm models add --again damaged=SOURCE'" in live(client, "careful").refused["damaged"]
    assert client.ledger.get(job).state == "queued"
    assert "  waits      no live worker serves the model 'damaged'; its jobs wait until one does (" in " ".join(
        shell("status", job).stdout.splitlines()
    )

    add(client.ledger, client.storage, "damaged", str(folder), again=True)
    assert finish([job])[0].state == "done"
    remove(client.ledger, client.storage, "damaged")
