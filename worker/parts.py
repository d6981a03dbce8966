"""The parts of a worker process, each made when another first needs it."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from farm import variables
from farm.bucket.storage import Storage
from farm.jobs.status import WorkerInfo
from farm.ledger.ledger import Ledger
from farm.queue import Queue
from farm.settings import Settings
from worker.bucket.catalogue import Catalogue
from worker.bucket.compile_cache import CompileCache
from worker.bucket.model_cache import GB, ModelCache
from worker.bucket.models import bucket_fetcher
from worker.diffusion.losses import Loss, load_losses
from worker.engine.engine import Engine
from worker.engine.memory import free_bytes
from worker.engine.rows import CAREFUL_CPU_ROWS, ROWS
from worker.engine.watchdog import Watchdog
from worker.host.crash_report import CrashReport
from worker.host.home import settle_home
from worker.job.answer import Answerer
from worker.job.claims import Claims
from worker.job.deliver import Delivery
from worker.job.failure import Failures
from worker.job.lane import StudyLane
from worker.job.leftovers import Leftovers
from worker.job.render import Renderer, engine_id
from worker.job.retry import Retrier
from worker.job.runner import JobRunner
from worker.job.supply import Supply
from worker.leases.announcing import Announcer
from worker.leases.keeper import LeaseKeeper
from worker.leases.reaper import Reaper
from worker.leaving import Leaving
from worker.models.compiled import numbers_of_rows
from worker.models.device import free_cached_memory, model_budget, name_of, place
from worker.models.embeddings import load_embeddings, with_embeddings
from worker.models.loader import Compile, ModelLoader
from worker.models.model import LoadedModel
from worker.models.pool import ModelPool
from worker.models.registry import ModelRegistry
from worker.models.service import ModelService
from worker.options import DEFAULT_CACHE_GB, DEFAULT_MODELS, Options
from worker.queue.consumer import Consumer
from worker.queue.intake import Intake
from worker.results.checkpoint import Checkpoints
from worker.results.previews import Previews
from worker.results.promote import Promoter
from worker.results.publish import Publisher, package_versions
from worker.results.retention import Retention
from worker.results.spool import Spool

_MOST_ANNOUNCED = 1_000


class Parts:
    """What a worker on one device is made of. All of it is made before any thread is started: making takes no lock."""

    def __init__(self, where: Settings, options: Options) -> None:
        self.id = f"{options.name or socket.gethostname()}-{secrets.token_hex(2)}"
        self._options = options
        self._settings = where
        self._placement = place(options.device)
        self._device = name_of(self._placement)  # now: a later thread would count what a forward has set
        self._on_gpu = self._placement.device.type != "cpu"
        self._slots = options.slots or (64 if self._on_gpu else 16)
        self._rows = options.rows or (CAREFUL_CPU_ROWS if options.deterministic and not self._on_gpu else ROWS)
        self._is_ready = False
        self._leaving = threading.Event()
        self._home = settle_home()
        self._timing = options.timing
        self._ledger = Ledger(where, timing=self._timing)
        self._storage = Storage(where)
        self._queue = Queue(where)
        self._intake = Intake()
        self._losses = load_losses(others=self._clip())
        self._models = ModelRegistry.from_options(options.models or DEFAULT_MODELS)
        self._embeddings = load_embeddings(options.embeddings, options.embedding_folders)

    def _clip(self) -> list[Loss]:
        """The loss that sees with CLIP, where the operator has one: `FARM_CLIP` names its folder."""
        folder = variables.CLIP.of(os.environ)
        if not folder:
            return []
        from worker.diffusion.clip_loss import ClipSimilarity

        return [ClipSimilarity(Path(folder), self._placement.device)]

    @cached_property
    def _crashes(self) -> Path:
        return self._home / "crashes"

    @cached_property
    def _crash_report(self) -> CrashReport:
        return CrashReport(self._crashes, self.id)

    @cached_property
    def _spool(self) -> Spool:
        return Spool(self._home / "spool")

    @cached_property
    def _previews(self) -> Previews:
        return Previews(self._storage)

    @cached_property
    def _checkpoints(self) -> Checkpoints:
        return Checkpoints(self._storage, self._ledger, self.id)

    @cached_property
    def _promoter(self) -> Promoter:
        return Promoter(self._storage, self._ledger, self._timing)

    @cached_property
    def _pool(self) -> ModelPool[LoadedModel]:
        loader = ModelLoader(
            self._placement,
            cache=self._home / "models",
            fetch=bucket_fetcher(self._settings),
            stored=self._catalogue,
            compile=self._compile_at_start() if self._options.compile and self._on_gpu else None,
        )
        budget = model_budget(self._placement)
        load = partial(with_embeddings, loader.load, self._embeddings)
        return ModelPool(self._models, budget, load, on_drop=partial(free_cached_memory, self._placement))

    @cached_property
    def _catalogue(self) -> Catalogue:
        told = self._options.model_cache_gb or variables.MODEL_CACHE_GB.of(os.environ) or DEFAULT_CACHE_GB
        cache = ModelCache(self._home / "models" / "farm", self._storage, int(told * GB))
        return Catalogue(self._storage, cache, self._models, all_of_them=not self._options.models)

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

    def _compile_at_start(self) -> Compile:
        """Compile models until the worker is ready: from then on jobs would wait for it."""
        numbers = (self._rows,) if self._options.deterministic else numbers_of_rows(self._rows)
        cache = CompileCache(self._home / "kernels", self._storage, numbers, variables.KERNELS_KEY.of(os.environ))
        return lambda model: None if self._is_ready else cache.compile(model)

    @cached_property
    def _served(self) -> ModelService:
        return ModelService(self._models.names, self._pool, ask_bucket=self._storage.find_bucket)

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
            describe=self._announcer.describe,
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
        )

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
    def _announcer(self) -> Announcer:
        fixed = WorkerInfo(
            id=self.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=self._device,
            state="starting",
            models=(),
            slots=self._slots,
            jobs=0,
            losses=tuple(self._losses.declarations),
            embeddings=tuple(embedding.name for embedding in self._embeddings),
            limits=self._options.limits,
            version=package_versions()["render-farm"],
            started=datetime.now(UTC),
        )
        return Announcer(self._ledger, fixed, self._as_it_is_now)

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
        }
