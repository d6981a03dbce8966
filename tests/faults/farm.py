"""A real farm to be mistreated: Redis, SeaweedFS and workers, each a process of its own on ports that stay.

It knows what was submitted to it and what was done to it, so that it can be audited at any time.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm.client import FarmClient
from farm.errors import LedgerUnavailable, StorageError
from farm.jobs.request import JobRequest
from farm.jobs.status import JobStatus, WorkerInfo
from farm.ledger.ledger import Ledger
from farm.ledger.timing import Timing
from farm.settings import Settings
from farm.stack import credentials, servers
from farm.stack.layout import Layout
from farm.stack.plan import PACKAGES
from farm.stack.process import Program
from tests import launching
from tests.environments import naming, of_a_shell
from tests.faults import plugin
from tests.faults.audit import Audit, settled
from tests.faults.faults import Fault
from tests.faults.history import History
from tests.faults.processes import Process, Watch
from tests.timing import SHORT
from tests.waiting import eventually

_END_WITHIN = 240.0
_CHEAP = {"prompt": "a cat", "model": "tiny", "steps": 5, "seed": 1, "guidance": 1}
"""One row of a forward each, so that many advance together."""


def write_out(ledger: Ledger) -> None:
    """Have Redis write all that it was told to its disk, until it is started again: while the disk is busy it holds
    that back for up to two seconds, which a killed one loses."""
    ledger.redis.config_set("appendfsync", "always")


@dataclass(frozen=True)
class Mark:
    """A moment of a farm: the pids of the workers that were running, and how many jobs had been submitted."""

    running: frozenset[int]
    submitted: int


class FaultyFarm:
    """A farm in `home`, with no worker at first; workers serve the tiny model in `model` under any name."""

    def __init__(self, home: Path, model: Path, timing: Timing = SHORT) -> None:
        self.home = home
        self.timing = timing
        self.flags = home / "flags"
        self.faults: list[Fault] = []
        self.submitted: list[str] = []
        self.workers: dict[str, Process] = {}
        self._model = model
        self._layout = Layout(home)
        self._layout.create()
        self.flags.mkdir()
        plugin.install(home / "plugins")
        self._watch = Watch(home)
        drawn = credentials.load(self._layout.credentials)
        self.where: Settings = servers.settings_for(drawn)
        self.redis = self._server(servers.redis_program(self._layout, drawn))
        self.s3 = self._server(servers.s3_program(self._layout, drawn))
        self._ports = drawn.ports.values()
        self.client = FarmClient(self.where)
        self.history = History(self.where)
        try:
            self.redis.start()
            self.s3.start()
            self.wait_for_redis()
            self.wait_for_s3()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.history.close()
        self.client.close()
        for process in (*self.workers.values(), self.s3, self.redis):
            if process.is_running:
                process.kill()
        servers.clear_sockets(self._ports)
        self._watch.close()

    @property
    def environment(self) -> dict[str, str]:
        """Of a shell on any machine of this farm."""
        return {
            **of_a_shell(self.home, timing=self.timing),
            **naming(self.where),
            "PYTHONPATH": str(self.home / "plugins"),
            "FAULT_FLAGS": str(self.flags),
        }

    def shell(self, *arguments: str) -> str:
        """What `farm …` prints when run as a person would."""
        done = launching.farm(*arguments, environment=self.environment, folder=PACKAGES)
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    # Workers

    def worker(
        self,
        name: str,
        *options: str,
        model: str = "tiny",
        command: tuple[str, ...] | None = None,
        script: str | None = None,
        environment: dict[str, str] | None = None,
    ) -> Process:
        """A worker of this name, not started yet. A `command`, or `script` (see `Forked`), is run in its place."""
        earlier = self.workers.get(name)
        assert earlier is None or not earlier.is_running, f"another {name} runs, which nobody would end"
        options = ("--name", name, "--device", "cpu", "--model", f"{model}={self._model}", *options)
        self.workers[name] = Process(
            name,
            command,
            PACKAGES,
            {**self.environment, **(environment or {})},
            self._layout.log(name),
            self._watch,
            options,
            script,
        )
        return self.workers[name]

    def start(self, *workers: Process) -> None:
        """Start workers side by side and wait until all of them are ready."""
        for worker in workers:
            worker.start()
        for worker in workers:
            self.wait_for(worker)

    def info(self, worker: Process) -> WorkerInfo | None:
        """What the worker's running process says of itself, if it has said anything yet."""
        return next((info for info in self.client.workers() if info.pid == worker.pid), None)

    def wait_for(self, worker: Process) -> None:
        """Wait until the worker takes jobs."""

        def is_ready() -> bool:
            assert worker.is_running, f"{worker.name} ended:\n{worker.last_words}"
            with contextlib.suppress(LedgerUnavailable):
                info = self.info(worker)
                return info is not None and info.state == "ready"
            return False

        eventually(is_ready, f"worker {worker.name} is ready", within=120)

    def retire(self, *workers: Process) -> None:
        """End workers that have no jobs, without blame."""
        for worker in workers:
            if worker.is_running:
                worker.ask_to_leave()
                worker.wait()

    # What a test leaves

    def mark(self) -> Mark:
        """What there is before a test."""
        running = frozenset(worker.pid for worker in self.workers.values() if worker.is_running)
        return Mark(running, len(self.submitted))

    def end_since(self, mark: Mark) -> None:
        """End what a failed test has left, so that it disturbs no other: its workers and its jobs.

        Workers that ran before it go on. Its jobs are cancelled, and audited no more.
        """
        for worker in self.workers.values():
            if worker.is_running and worker.pid not in mark.running:
                worker.kill()
        self.client.ledger.cancel_many(self.submitted[mark.submitted :])
        del self.submitted[mark.submitted :]

    # Jobs

    def submit(self, **fields: Any) -> list[str]:
        """Submit one request and give the ids of its jobs."""
        request = JobRequest.parse({**_CHEAP, **fields})
        jobs = list(self.client.submit([request]).jobs)
        self.submitted += jobs
        return jobs

    def statuses(self, jobs: Sequence[str]) -> list[JobStatus]:
        return self.client.ledger.get_many(jobs)

    def held_by(self, worker: Process, jobs: Sequence[str]) -> list[str]:
        """The jobs that are in the hands of a worker now."""
        return [
            status.id
            for status in self.statuses(jobs)
            if status.state == "running" and (status.worker or "").rpartition("-")[0] == worker.name
        ]

    def until_running(self, jobs: Sequence[str], *, step: int = 1) -> None:
        """Wait until every job has been rendered up to `step`; fail if one is over before that was seen."""

        def all_are() -> bool:
            statuses = self.statuses(jobs)
            over = [status.id for status in statuses if status.is_over]
            assert not over, f"over too early to be caught: {over}"
            return all(status.state == "running" and status.step >= step for status in statuses)

        eventually(all_are, f"{len(jobs)} jobs are being rendered", within=120)

    def until_over(self, jobs: Sequence[str], *, within: float = _END_WITHIN) -> list[JobStatus]:
        """Wait until every job is over, whatever happens to Redis meanwhile."""

        def statuses_of_the_end() -> list[JobStatus]:
            with contextlib.suppress(LedgerUnavailable):
                statuses = self.statuses(jobs)
                return statuses if all(status.is_over for status in statuses) else []
            return []

        over: list[JobStatus] = eventually(statuses_of_the_end, f"all of {len(jobs)} jobs are over", within=within)
        return over

    def audited(self) -> Audit:
        """Wait for the end of every job ever submitted, and see that nothing was lost, doubled or unexplained."""
        self.until_over(self.submitted)
        found = self.audit()
        assert not found.complaints, str(found)
        return found

    def audit(self) -> Audit:
        """What the audit says of everything that was ever submitted, once it has settled."""
        return settled(self.client, self.submitted, self.history, self.faults)

    # Faults

    @contextmanager
    def fault(
        self, kind: str, worker: Process | None = None, *, may_cost: bool = False, fatal: bool = False
    ) -> Iterator[Fault]:
        """Note what is done to the farm inside the block."""
        fault = Fault(kind, worker.name if worker else None, may_cost, fatal)
        self.faults.append(fault)
        try:
            yield fault
        finally:
            fault.end()

    def kill(self, worker: Process) -> Fault:
        """`kill -9`. The worker stays dead."""
        with self.fault("kill -9", worker, may_cost=True, fatal=True) as fault:
            worker.kill()
        return fault

    @contextmanager
    def frozen(self, process: Process) -> Iterator[Fault]:
        """The process is stopped for the time of the block. Only a worker's jobs may suffer for it."""
        is_worker = process.name in self.workers
        kind = f"{'worker' if is_worker else process.name} frozen"
        with self.fault(kind, process if is_worker else None, may_cost=is_worker) as fault:
            process.freeze()
            try:
                yield fault
            finally:
                process.thaw()

    @contextmanager
    def without_redis(self) -> Iterator[Fault]:
        """Redis is killed, and started again on its own data after the block. No job may suffer for it."""
        write_out(self.client.ledger)
        with self.fault("redis killed") as fault:
            self.redis.kill()
            try:
                yield fault
            finally:
                self.redis.start()
                self.wait_for_redis()

    @contextmanager
    def without_s3(self) -> Iterator[Fault]:
        """The S3 server is killed, and started again on its own data after the block. No job may suffer for it."""
        with self.fault("s3 killed") as fault:
            self.s3.kill()
            try:
                yield fault
            finally:
                self.s3.start()
                self.wait_for_s3()

    def lose_redis(self) -> None:
        """Redis is killed, its data removed, and an empty one started. What was in hand may be rendered again."""
        with self.fault("redis wiped", may_cost=True):
            self.redis.kill()
            for part in self._layout.redis.iterdir():
                if part.is_dir():
                    shutil.rmtree(part)
            self.redis.start()
            self.wait_for_redis()

    # Servers

    def wait_for_redis(self) -> None:
        self._answers(self.redis, lambda: self.client.ledger.counts())

    def wait_for_s3(self) -> None:
        def takes_objects() -> None:
            self.client.storage.ensure_bucket()
            self.client.storage.put("probes/faults", str(time.time_ns()).encode(), "text/plain")

        self._answers(self.s3, takes_objects)

    def _answers(self, process: Process, ask: Callable[[], object]) -> None:
        def answers() -> bool:
            assert process.is_running, f"{process.name} ended:\n{process.last_words}"
            try:
                ask()
            except (LedgerUnavailable, StorageError):
                return False
            return True

        eventually(answers, f"{process.name} answers", within=120)

    def _server(self, program: Program) -> Process:
        return Process(program.name, program.command, program.directory, program.environment, program.log, self._watch)
