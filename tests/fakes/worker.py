"""A worker's way of a job, from message to result, on the fakes: all of it but the process around."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farm import keys
from farm.bucket.loras import LORAS
from farm.jobs.limits import Limits
from farm.jobs.request import JobRequest
from farm.jobs.status import JobStatus, Waiting
from farm.ledger.records import Claim, NewJob
from farm.ledger.timing import Timing
from farm.queue import Queue
from tests.fakes.adapters import read_fake
from tests.fakes.engine import FakeEngine
from tests.fakes.ledger import FakeLedger
from tests.fakes.model import FakeModel
from tests.fakes.storage import FakeStorage
from tests.ledgers import BATCH, a_worker
from worker.bucket.adapters import Adapters
from worker.bucket.model_cache import ModelCache
from worker.diffusion.losses import load_losses
from worker.job.answer import Answerer
from worker.job.claims import Claims
from worker.job.deliver import Delivery
from worker.job.failure import Failures
from worker.job.leftovers import Leftovers
from worker.job.log import JobLogs
from worker.job.render import Renderer, engine_id
from worker.job.retry import Retrier
from worker.job.runner import JobRunner
from worker.leases.keeper import LeaseKeeper
from worker.models.pool import ModelPool
from worker.models.registry import ModelRegistry
from worker.models.service import ModelService
from worker.queue.intake import Intake
from worker.results.checkpoint import Checkpoints
from worker.results.previews import Previews
from worker.results.promote import Promoter
from worker.results.publish import Publisher
from worker.results.spool import Spool

HASTY = Timing(lease=1.0, progress=0.05, reaping=0.05, again=0.05, patience=0.3, disk=0.0, unpromoted=0.0)
"""Waits that are over in milliseconds."""


class FakeQueue(Queue):
    """Remembers what was published."""

    def __init__(self) -> None:
        self.published: list[Waiting] = []

    def publish(self, jobs: Iterable[Waiting]) -> None:
        self.published += jobs


@dataclass
class FakeFarm:
    """A ledger, a bucket and a queue in memory, which workers share."""

    ledger: FakeLedger = field(default_factory=lambda: FakeLedger(HASTY))
    storage: FakeStorage = field(default_factory=FakeStorage)
    queue: FakeQueue = field(default_factory=FakeQueue)

    def submit(self, *, batch: str = BATCH, **fields: Any) -> list[str]:
        """The ids of the jobs of a request, whose batch is `BATCH` unless said otherwise."""
        asked = {"prompt": "a cat", "model": "tiny", "steps": 5, "seed": 1, **fields}
        specs = JobRequest.parse(asked).specs(None, default_model="tiny")
        new = [NewJob(keys.job_in_batch(batch, index), spec, 5, {}) for index, spec in enumerate(specs)]
        self.ledger.create(batch, new)
        return [job.id for job in new]

    def status(self, job: str) -> JobStatus:
        return self.ledger.get(job)


class FakeWorker:
    """One worker of a farm. `id` is also its name."""

    def __init__(
        self,
        farm: FakeFarm,
        home: Path,
        id: str = "w1",
        *,
        timing: Timing = HASTY,
        limits: Limits | None = None,
        snapshot_every: int = 0,
        models: tuple[str, ...] = ("tiny",),
    ) -> None:
        self.farm, self.id = farm, id
        home.mkdir(parents=True, exist_ok=True)
        ledger, storage = farm.ledger, farm.storage
        self.engine = FakeEngine(snapshot_every=snapshot_every)
        self.leaving = threading.Event()
        self.intake = Intake()
        self.spool = Spool(home / "spool")
        self.checkpoints = Checkpoints(storage, ledger, id)
        self.previews = Previews(storage)
        registry = ModelRegistry.from_options([f"{name}={home}" for name in models])
        loaded: ModelPool[Any] = ModelPool(registry, 1, lambda name, _: FakeModel(name))
        served = ModelService(models, loaded, ask_bucket=storage.find_bucket)
        self.retrier = Retrier(self.intake, self.leaving, timing)
        self.claims = Claims(id, ledger, farm.queue, served, self.leaving, timing)
        self.keeper = LeaseKeeper(
            ledger,
            id,
            announce=lambda: ledger.announce(a_worker(id)),
            on_lost=lambda claim: self.engine.cancel(engine_id(claim)),
            on_preview_wanted=lambda claim: self.engine.want_preview(engine_id(claim)),
            is_hung=lambda: False,
            on_hang=lambda: None,
            timing=timing,
        )
        self.leftovers = Leftovers(self.checkpoints, self.previews, self.spool)
        self.promoter = Promoter(storage, ledger, timing)
        self.delivery = Delivery(id, ledger, Publisher(storage, worker=id, device="cpu"), self.spool, self.retrier)
        self.renderer = Renderer(
            worker=id,
            engine=self.engine,
            models=loaded,
            limits=limits or Limits(),
            losses=load_losses(),
            storage=storage,
            adapters=Adapters(storage, ModelCache(home / "kept", storage, 10**9, LORAS), read=read_fake),
            checkpoints=self.checkpoints,
            previews=self.previews,
            retrier=self.retrier,
            leaving=self.leaving,
        )
        self.answerer = Answerer(
            worker=id,
            engine=self.engine,
            models=loaded,
            limits=limits or Limits(),
            losses=load_losses(),
            storage=storage,
            retrier=self.retrier,
            leaving=self.leaving,
        )
        self.failures = Failures(
            worker=id,
            ledger=ledger,
            claims=self.claims,
            leftovers=self.leftovers,
            intake=self.intake,
            retrier=self.retrier,
            leaving=self.leaving,
            timing=timing,
        )
        self.logs = JobLogs(storage, id)
        self.runner = JobRunner(
            intake=self.intake,
            claims=self.claims,
            keeper=self.keeper,
            renderer=self.renderer,
            answerer=self.answerer,
            delivery=self.delivery,
            promoter=self.promoter,
            leftovers=self.leftovers,
            failures=self.failures,
            logs=self.logs,
            is_current=lambda _: True,
        )

    def work(self, job: str) -> JobStatus:
        """Handle a message that names `job`, and say what the ledger says then."""
        self.runner.run(job)
        return self.farm.status(job)

    def at_step(self, step: int, *then: Callable[[], object]) -> None:
        """Do something when a job of this worker has had so many steps."""
        take_step = self.engine._take_step

        def taken(request: Any, position: int) -> None:
            take_step(request, position)
            if position + 1 == step:
                for act in then:
                    act()

        self.engine._take_step = taken  # type: ignore[method-assign]

    def hear(self) -> None:
        """What the keeper's thread does now and then: report, and hear what was lost and what is looked at."""
        self.keeper._renew()

    def leave(self) -> None:
        """Be asked to leave by a signal."""
        self.intake.close("it is leaving")
        self.leaving.set()
        self.engine.suspend_all()

    def crash_with(self, job: str) -> Claim:
        """Claim a job and never be heard of again."""
        claim = self.farm.ledger.claim(job, self.id, lease=-1.0, alone=True)
        assert claim is not None
        self.farm.ledger.reap()
        return claim
