"""The parts of a worker process, each made when another first needs it."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any

from farm.jobs.status import WorkerInfo
from worker.draining import Draining
from worker.engine.engine import Engine
from worker.engine.memory import free_bytes
from worker.engine.watchdog import Watchdog
from worker.host.memory import MemoryGauge
from worker.job.answer import Answerer
from worker.job.claims import Claims
from worker.job.deliver import Delivery
from worker.job.failure import Failures
from worker.job.lane import StudyLane
from worker.job.leftovers import Leftovers
from worker.job.log import JobLogs, secrets_of
from worker.job.render import Renderer, engine_id
from worker.job.retry import Retrier
from worker.job.runner import JobRunner
from worker.job.supply import Supply
from worker.leases.announcing import Announcer
from worker.leases.keeper import LeaseKeeper
from worker.leases.reaper import Reaper
from worker.leaving import Leaving
from worker.means import Means
from worker.models.device import memory_of
from worker.queue.consumer import Consumer
from worker.results.publish import Publisher, package_versions
from worker.results.retention import Retention

_MOST_ANNOUNCED = 1_000


class Parts(Means):
    """What a worker on one device is made of. All of it is made before any thread is started: making takes no lock."""

    @cached_property
    def _supply(self) -> Supply:
        return Supply(
            self.id,
            ledger=self._ledger,
            catalogue=self._catalogue,
            served=self._served,
            pool=self._pool,
            consume=lambda names: self._consumer.consume_only(names) if self._is_ready else None,
            announce=self._announcer.announce,
            images_per_minute=lambda: self._runner.images_per_minute,
            is_paused=lambda: not self._intake.is_open,
            leaving=self._leaving,
            timing=self._timing,
        )

    @cached_property
    def _engine(self) -> Engine:
        return Engine(
            self._losses,
            max_rows=self._rows,
            deterministic=self._options.deterministic,
            snapshot_seconds=self._options.checkpoint_seconds,
            free=partial(free_bytes, self._placement.device),
        )

    @cached_property
    def _watchdog(self) -> Watchdog:
        return Watchdog(
            self._engine,
            self._crash_report,
            self._timing.stall or (60.0 if self._on_gpu else 300.0),
            is_expected_to_live=lambda: self._is_ready and not self._leaving.is_set(),
        )

    @cached_property
    def _keeper(self) -> LeaseKeeper:
        return LeaseKeeper(
            self._ledger,
            self.id,
            announce=self._announcer.say,
            on_lost=lambda claim: self._engine.cancel(engine_id(claim)),
            on_preview_wanted=lambda claim: self._engine.want_preview(engine_id(claim)),
            is_hung=self._watchdog.is_hung,
            on_hang=self._watchdog.on_hang,
            timing=self._timing,
        )

    @cached_property
    def _reaper(self) -> Reaper:
        retention = Retention(self._ledger, self._storage)
        chores = (self._promoter.promote_missing, retention.see_to_it)
        return Reaper(self._ledger, self._queue, self.id, also=chores, timing=self._timing)

    @cached_property
    def _retrier(self) -> Retrier:
        return Retrier(self._intake, self._leaving, self._timing)

    @cached_property
    def _claims(self) -> Claims:
        return Claims(self.id, self._ledger, self._queue, self._served, self._leaving, self._timing)

    @cached_property
    def _leftovers(self) -> Leftovers:
        return Leftovers(self._checkpoints, self._previews, self._spool)

    @cached_property
    def _renderer(self) -> Renderer:
        return Renderer(
            worker=self.id,
            engine=self._engine,
            models=self._pool,
            limits=self._options.limits,
            losses=self._losses,
            storage=self._storage,
            adapters=self._adapters,
            checkpoints=self._checkpoints,
            previews=self._previews,
            retrier=self._retrier,
            leaving=self._leaving,
        )

    @cached_property
    def _answerer(self) -> Answerer:
        return Answerer(
            worker=self.id,
            engine=self._engine,
            models=self._pool,
            limits=self._options.limits,
            losses=self._losses,
            storage=self._storage,
            retrier=self._retrier,
            leaving=self._leaving,
            free=(lambda: None) if self._options.deterministic else partial(free_bytes, self._placement.device),
        )

    @cached_property
    def _failures(self) -> Failures:
        return Failures(
            worker=self.id,
            ledger=self._ledger,
            claims=self._claims,
            leftovers=self._leftovers,
            intake=self._intake,
            retrier=self._retrier,
            leaving=self._leaving,
            timing=self._timing,
        )

    @cached_property
    def _runner(self) -> JobRunner:
        publisher = Publisher(self._storage, worker=self.id, device=self._device)
        return JobRunner(
            intake=self._intake,
            claims=self._claims,
            keeper=self._keeper,
            renderer=self._renderer,
            answerer=self._answerer,
            delivery=Delivery(self.id, self._ledger, publisher, self._spool, self._retrier),
            promoter=self._promoter,
            leftovers=self._leftovers,
            failures=self._failures,
            logs=self._logs,
            is_current=lambda name: self._supply.is_current(name),
        )

    @cached_property
    def _logs(self) -> JobLogs:
        return JobLogs(self._storage, self.id, secrets_of(self._settings, os.environ))

    @cached_property
    def _studies(self) -> StudyLane:
        return StudyLane(self._ledger, self._keeper, self._served, slots=self._slots, work=self._runner.answer)

    @cached_property
    def _consumer(self) -> Consumer:
        return Consumer(self._settings, self._intake, worker=self.id, slots=self._slots, handle=self._runner.run)

    @cached_property
    def _leave(self) -> Leaving:
        return Leaving(
            worker=self.id,
            ledger=self._ledger,
            engine=self._engine,
            intake=self._intake,
            keeper=self._keeper,
            crash_report=self._crash_report,
            hand_back=self._failures.hand_back,
            announce=self._announcer.announce,
            grace=self._options.grace,
            event=self._leaving,
        )

    @cached_property
    def _gauge(self) -> MemoryGauge:
        return MemoryGauge(partial(memory_of, self._placement), seconds=self._timing.announcement)

    @cached_property
    def _announcer(self) -> Announcer:
        fixed = WorkerInfo(
            id=self.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=self._device,
            state="starting",
            models=(),
            slots=self._slots,
            max_rows=self._rows,
            jobs=0,
            losses=tuple(self._losses.declarations),
            embeddings=tuple(embedding.name for embedding in self._embeddings),
            limits=self._options.limits,
            version=package_versions()["render-farm"],
            started=datetime.now(UTC),
        )
        return Announcer(self._ledger, fixed, self._as_it_is_now, hear=self._draining.hear)

    @cached_property
    def _draining(self) -> Draining:
        return Draining(self._intake, suspend_all=self._engine.suspend_all, held=lambda: self._keeper.held)

    def _as_it_is_now(self) -> dict[str, Any]:
        state = "draining" if self._leaving.is_set() else "ready" if self._is_ready else "starting"
        return {
            "state": state,
            "models": self._served.served[:_MOST_ANNOUNCED],
            "refused": self._served.refused,
            "warm": self._pool.warm,
            "loading": self._supply.loading,
            "jobs": len(self._keeper.held),
            "paused": self._intake.reason,
            "done": self._runner.done,
            "images_per_minute": self._runner.images_per_minute,
            "drained": self._draining.is_on,
            "rows": self._engine.rows,
            "device_memory": self._gauge.device,
            "host_memory": self._gauge.host,
        }
