"""The local farm under its own supervisor, with real workers in the middle of real jobs.

How each kind of process is started again, and what `farm down` ends, is tested in `tests/stack`; here the jobs count.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from farm import stack
from farm.client import FarmClient
from farm.jobs.request import JobRequest
from farm.jobs.status import JobStatus
from farm.ledger.timing import VARIABLE
from farm.settings import Settings
from tests import launching
from tests.faults import plugin
from tests.faults.audit import settled
from tests.faults.farm import write_out
from tests.faults.faults import Fault
from tests.faults.history import History
from tests.faults.plugin import paced
from tests.faults.processes import working_in
from tests.stack.farms import Farm, end, lives
from tests.timing import SHORT
from tests.tiny import build_tiny_model
from tests.waiting import eventually
from worker.engine.watchdog import EXIT_HUNG

IMPATIENT = SHORT.model_copy(update={"lease": 8.0, "stall": 10.0})
"""Ten seconds without progress are a hang: five minutes, on a CPU, are long for a test. On a busy machine a step may
take seconds, and renewals too."""


class Supervised:
    """A local farm, its client, and what happened to its jobs."""

    def __init__(self, farm: Farm, model: Path) -> None:
        self.farm = farm
        self.submitted: list[str] = []
        self.faults: list[Fault] = []
        self._model = model
        self.where: Settings = self.start(workers=2)
        self.client = FarmClient(self.where)
        self.history = History(self.where)

    def start(self, *, workers: int = 1) -> Settings:
        """Start the farm and wait until its workers are ready."""
        settings = launching.start_detached(
            self.farm.home, workers, f"tiny={self._model}", environment=dict(os.environ)
        )
        assert stack.wait_for_workers(self.farm.home, settings, timeout=180)
        return settings

    def submit(self, **fields: Any) -> list[str]:
        request = JobRequest.parse({"prompt": "a cat", "model": "tiny", "guidance": 1, **fields})
        jobs = list(self.client.submit([request]).jobs)
        self.submitted += jobs
        return jobs

    def until(self, jobs: list[str], holds: Callable[[JobStatus], bool], what: str) -> list[JobStatus]:
        def all_do() -> list[JobStatus]:
            statuses = self.client.ledger.get_many(jobs)
            return statuses if all(map(holds, statuses)) else []

        found: list[JobStatus] = eventually(all_do, what, within=180)
        return found

    def until_over(self, jobs: list[str]) -> list[JobStatus]:
        return self.until(jobs, lambda status: status.is_over, "all jobs are over")

    def until_running(self, jobs: list[str]) -> list[JobStatus]:
        return self.until(jobs, lambda status: status.state == "running" and status.step > 0, "all jobs are rendered")

    def audited(self) -> None:
        """See that nothing was lost, doubled or unexplained."""
        found = settled(self.client, self.submitted, self.history, self.faults)
        assert not found.complaints, str(found)

    def end_since(self, submitted: int) -> None:
        """After a test that failed: the farm runs, and nobody waits for the jobs that came after the first so many."""
        if stack.status(self.farm.home) is None:
            self.start()
        self.client.ledger.cancel_many(self.submitted[submitted:])
        del self.submitted[submitted:]

    def close(self) -> None:
        self.history.close()
        self.client.close()
        end(self.farm)


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the misbehaving losses' flags; workers of this module's farm find both."""
    folder = tmp_path_factory.mktemp("flags")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(plugin.install(tmp_path_factory.mktemp("plugins") / "here")))
        patch.setenv("FAULT_FLAGS", str(folder))
        patch.setenv(VARIABLE, IMPATIENT.model_dump_json())
        yield folder


@pytest.fixture
def supervised(of_all_tests: Supervised, ended_well: Callable[[], bool]) -> Iterator[Supervised]:
    """The farm of this file. A test that ends well is followed by the audit of all jobs, one that fails leaves none."""
    before = len(of_all_tests.submitted)
    yield of_all_tests
    is_well = False
    try:
        if ended_well():
            of_all_tests.audited()
            is_well = True
    finally:
        if not is_well:
            of_all_tests.end_since(before)


@pytest.fixture(scope="module")
def of_all_tests(tmp_path_factory: pytest.TempPathFactory, flags: Path) -> Iterator[Supervised]:
    folder = tmp_path_factory.mktemp("supervised")
    farm = Farm(folder / "home")
    try:
        one = Supervised(farm, build_tiny_model(folder / "tiny"))
        yield one
        one.close()
    finally:
        end(farm)


def child(supervised: Supervised, name: str) -> stack.ChildStatus:
    return next(one for one in supervised.farm.status.children if one.name == name)


def test_a_hung_engine_ends_its_worker_and_the_jobs_move(supervised: Supervised, flags: Path) -> None:
    companions = supervised.submit(count=6, steps=40, **paced(0.2, every=4))
    supervised.until_running(companions)
    (flags / "hang").touch()
    fault = Fault("hang", may_cost=True)
    supervised.faults.append(fault)
    [hanging] = supervised.submit(steps=5, losses=[{"name": "hang", "every": 1}])

    [status] = supervised.until_over([hanging])
    fault.end()

    hung, heir = (claim.worker or "" for claim in supervised.history.claims(hanging)[:2])
    assert (status.state, status.attempt) == ("done", 2)
    name = hung.rpartition("-")[0]
    fault.worker = name
    back = eventually(
        lambda: (one := child(supervised, name)).restarts == 1 and one.runs and one, "it is started again"
    )
    assert back.last_exit == EXIT_HUNG
    assert "the engine made no progress" in back.log.read_text(encoding="utf-8")
    assert heir != hung
    assert {one.state for one in supervised.until_over(companions)} == {"done"}


def test_jobs_outlive_their_killed_supervisor(supervised: Supervised, chance: random.Random) -> None:
    """Everything dies with it, and goes on when the farm is started again."""
    jobs = supervised.submit(count=4, steps=40, **paced(0.2, every=4))
    supervised.until_running(jobs)
    time.sleep(chance.uniform(0, 1))
    pids = supervised.farm.pids()
    write_out(supervised.client.ledger)
    fault = Fault("supervisor killed", may_cost=True)
    supervised.faults.append(fault)

    os.kill(pids["supervisor"], signal.SIGKILL)
    eventually(lambda: not any(map(lives, pids.values())), "every process is gone")
    supervised.start()
    fault.end()

    assert {(status.state, status.attempt) for status in supervised.until_over(jobs)} == {("done", 2)}
    for job in jobs:
        heir = supervised.history.holder(job)
        assert heir in {worker.id for worker in supervised.client.workers()}, "the start waited for the living"


def test_jobs_outlive_down_and_up(supervised: Supervised) -> None:
    """The workers hand back what they have, and nobody is blamed."""
    jobs = supervised.submit(count=4, steps=40, **paced(0.2, every=4))
    supervised.until_running(jobs)
    pids = supervised.farm.pids()
    fault = Fault("farm down", may_cost=True)
    supervised.faults.append(fault)

    assert stack.stop(supervised.farm.home)
    eventually(lambda: not any(map(lives, pids.values())), "every process is gone")
    supervised.start()
    fault.end()

    assert {status.state for status in supervised.until_over(jobs)} == {"done"}
    whys = [happening.why for job in jobs for happening in supervised.history.of(job) if happening.why]
    assert set(whys) == {"released"}


@pytest.mark.parametrize("frozen", ["children", "supervisor", "everything"])
def test_down_ends_what_is_frozen(tmp_path: Path, frozen: str) -> None:
    """A stopped process takes no SIGTERM; `farm down` loses patience, and leaves nothing."""
    farm = Farm(tmp_path / "home")
    try:
        farm.start(workers=1)
        pids = farm.pids()
        assert len(working_in(farm.home)) >= 3, "they can be found"
        supervisor = pids["supervisor"]
        stopped = {"children": {*pids.values()} - {supervisor}, "supervisor": {supervisor}}
        for pid in stopped.get(frozen, {*pids.values()}):
            os.kill(pid, signal.SIGSTOP)

        assert stack.stop(farm.home, timeout=60 if frozen == "children" else 1)

        eventually(lambda: not working_in(farm.home), "nothing is left")
        assert stack.status(farm.home) is None
    finally:
        end(farm)


def test_down_during_a_restart_ends_everything(tmp_path: Path) -> None:
    """Its children have just been killed, and some are about to be started again."""
    farm = Farm(tmp_path / "home")
    try:
        farm.start(workers=2)
        pids = farm.pids()
        for name in ("redis", "s3", "local-1"):
            os.kill(pids[name], signal.SIGKILL)

        assert stack.stop(farm.home)

        assert stack.status(farm.home) is None
        eventually(lambda: not working_in(farm.home), "nothing is left")
        assert "Traceback" not in farm.layout.log("supervisor").read_text(encoding="utf-8")
    finally:
        end(farm)
