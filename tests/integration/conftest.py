"""A real farm: Redis, SeaweedFS and worker processes, with a tiny model.

Each test that needs its own workers uses its own model name, and with it its own queue.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from farm import stack
from farm.client import FarmClient
from farm.jobs.request import JobRequest
from farm.jobs.status import JobStatus
from farm.settings import Settings
from tests import launching
from tests.environments import of_a_shell
from tests.faults import plugin
from tests.faults.plugin import paced
from tests.launching import Forked
from tests.tiny import build_tiny_model
from tests.waiting import eventually

LONG: dict[str, Any] = {"steps": 100, **paced(0.1, every=4)}
"""Long enough to be caught in the middle, on any machine: it mostly sleeps."""


@dataclass
class Worker:
    """A worker process and the file it writes its log to."""

    name: str
    process: Forked | subprocess.Popen[bytes]
    log: Path

    def is_ready(self, client: FarmClient) -> bool:
        assert self.process.poll() is None, f"{self.name} ended:\n{self.log.read_text(encoding='utf-8')[-4000:]}"
        return any(w.id.startswith(f"{self.name}-") and w.state == "ready" for w in client.workers())

    def kill(self) -> None:
        """As by the kernel: no handler runs."""
        self.process.kill()
        self.process.wait(30)

    def ask_to_leave(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("a farm's home")


@pytest.fixture(scope="session")
def where(home: Path) -> Iterator[Settings]:
    yield stack.start_detached(home, workers=0)
    assert stack.stop(home)


@pytest.fixture(scope="session")
def environment(home: Path, where: Settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a shell on this farm's machine. `where` makes sure that the farm runs."""
    losses = plugin.install(tmp_path_factory.mktemp("plugins") / "here")
    flags = tmp_path_factory.mktemp("flags")
    return {**of_a_shell(home), "PYTHONPATH": str(losses), "FAULT_FLAGS": str(flags)}


@pytest.fixture
def client(where: Settings) -> Iterator[FarmClient]:
    with FarmClient(where) as client:
        yield client


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


class Launcher:
    """Starts workers that serve the tiny model under a name, or none of their own, and waits until they are ready."""

    def __init__(self, environment: dict[str, str], where: Settings, tiny_model: Path, logs: Path) -> None:
        self._environment, self._where, self._tiny_model, self._logs = environment, where, tiny_model, logs
        self._started: list[Worker] = []

    def __call__(self, name: str, *options: str, model: str | None = "tiny", **variables: str) -> Worker:
        log = self._logs / f"{name}.log"
        served = ("--model", f"{model}={self._tiny_model}") if model else ()
        arguments = ("--name", name, "--device", "cpu", *served, *options)
        process = Forked(arguments, environment={**self._environment, **variables}, log=log)
        worker = Worker(name, process, log)
        self._started.append(worker)
        with FarmClient(self._where) as client:
            eventually(lambda: worker.is_ready(client), f"worker {name} is ready")
        return worker

    def end(self) -> None:
        for worker in self._started:
            worker.process.kill()
            worker.process.wait(30)


@pytest.fixture
def launch(environment: dict[str, str], where: Settings, tiny_model: Path, tmp_path: Path) -> Iterator[Launcher]:
    """Starts workers of this test's own; they end with it."""
    launcher = Launcher(environment, where, tiny_model, tmp_path)
    yield launcher
    launcher.end()


@pytest.fixture(scope="session")
def worker(
    environment: dict[str, str], where: Settings, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    """One worker for all tests that need no special one, serving `tiny`; it knows the embedding `scribble`, which is
    for that, and `oversized`, which is not."""
    launcher = Launcher(environment, where, tiny_model, tmp_path_factory.mktemp("logs"))
    folder = tmp_path_factory.mktemp("embeddings")
    save_file({"emb_params": torch.full((2, 32), 0.5)}, folder / "scribble.safetensors")
    save_file({"emb_params": torch.full((1, 48), 0.5)}, folder / "large.safetensors")
    known = ("--embeddings", str(folder), "--embedding", f"oversized={folder / 'large.safetensors'}")
    try:
        yield launcher("shared", *known)
    finally:
        launcher.end()


@pytest.fixture
def shell(environment: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `farm …` as a person would, in an empty folder."""

    def run(*arguments: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        done = launching.farm(*arguments, environment={**environment, **variables}, folder=tmp_path)
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "patch.png"
    image = Image.new("RGB", (64, 64), (40, 80, 200))
    image.paste((220, 40, 30), (16, 16, 48, 48))
    image.save(path)
    return path


@pytest.fixture
def submit(client: FarmClient) -> Iterator[Callable[..., list[str]]]:
    """Submits one request of the tiny model and gives the ids of its jobs. What is not over with the test is cancelled:
    the next one has the farm to itself, whether this one ended well or not."""
    submitted: list[str] = []

    def run(**fields: Any) -> list[str]:
        request = JobRequest.parse({"prompt": "a cat", "model": "tiny", "steps": 5, "seed": 1, **fields})
        jobs = list(client.submit([request]).jobs)
        submitted.extend(jobs)
        return jobs

    yield run
    client.ledger.cancel_many(submitted)


@pytest.fixture
def status(client: FarmClient) -> Callable[[str], JobStatus]:
    return client.ledger.get


@pytest.fixture
def finish(client: FarmClient) -> Callable[[list[str]], list[JobStatus]]:
    """Waits until jobs are over."""

    def wait(jobs: list[str]) -> list[JobStatus]:
        def statuses_of_the_end() -> list[JobStatus]:
            statuses = client.ledger.get_many(jobs)
            return statuses if all(status.is_over for status in statuses) else []

        over: list[JobStatus] = eventually(statuses_of_the_end, "all jobs are over", within=240)
        return over

    return wait


def trace_numbers(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
