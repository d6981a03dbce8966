"""A worker process: puts the parts together, consumes the queues of its models, and leaves when asked to."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from types import FrameType
from typing import Any, Literal, NoReturn

import torch

from farm import settings
from farm.bucket.storage import Storage
from farm.client import tie
from farm.errors import FarmError, InvalidInput, LedgerRefused, LedgerUnavailable
from farm.jobs.limits import Limits
from farm.jobs.status import WorkerInfo
from farm.ledger.ledger import Ledger
from farm.ledger.records import Claim
from farm.queue import TASK, Queue, celery_app, queue_name
from farm.settings import Settings
from worker.bucket.compile_cache import Kernels, secret_of
from worker.bucket.models import bucket_fetcher
from worker.diffusion.determinism import choose_deterministic_kernels
from worker.diffusion.losses import Losses, load_losses
from worker.engine.engine import Engine
from worker.engine.memory import free_bytes
from worker.engine.rows import CAREFUL_CPU_ROWS, ROWS
from worker.host.crash_report import BlackBox, left_behind
from worker.host.home import settle_home
from worker.job.retry import Patience
from worker.job.runner import JobRunner, engine_id
from worker.leases.keeper import LeaseKeeper
from worker.leases.reaper import Reaper
from worker.leases.retention import Retention
from worker.models.compiled import numbers_of_rows
from worker.models.device import Placement, place
from worker.models.loader import Compile, ModelLoader
from worker.models.model import LoadedModel
from worker.models.pool import ModelPool
from worker.models.registry import ModelRegistry
from worker.models.service import ModelService
from worker.queue import transport
from worker.queue.intake import Intake
from worker.results.checkpoint import Checkpoints
from worker.results.previews import Previews
from worker.results.promote import Crown
from worker.results.publish import Publisher, package_versions
from worker.results.spool import Spool

_log = logging.getLogger(__name__)

DEFAULT_MODELS = ("emoji",)
_RETRY_SECONDS = 1.0
EXIT_HUNG = 75
"""The engine hung: a supervisor should start the worker again."""


@dataclass(frozen=True)
class Options:
    """How a worker runs. None: chosen by the device.

    `slots` jobs are in flight at once, `rows` of them advance in one forward pass (a job under
    classifier-free guidance takes two), fewer where memory is short. With `compile` the models' UNets are compiled
    before the first job. A worker that is asked to leave is gone within `grace` seconds. A job is
    checkpointed every `checkpoint_seconds`, 0 for never; jobs that are shorter cost nothing.
    """

    models: Sequence[str] = DEFAULT_MODELS
    name: str | None = None
    device: str | None = None
    slots: int | None = None
    rows: int | None = None
    deterministic: bool = False
    compile: bool = False
    grace: float = 25.0
    checkpoint_seconds: float = 60.0
    stall_seconds: float | None = None
    limits: Limits = field(default_factory=Limits)


class Worker:
    """One process on one device."""

    def __init__(self, where: Settings, options: Options) -> None:
        self._options = options
        self._placement = place(options.device)
        self._on_gpu = self._placement.device.type != "cpu"
        self._device = _device_name(self._placement)
        self.id = f"{options.name or socket.gethostname()}-{secrets.token_hex(2)}"
        registry = ModelRegistry.from_options(options.models)
        self._losses: Losses = load_losses()
        self._state: Literal["starting", "ready", "draining"] = "starting"
        self._started = datetime.now(UTC)
        self._leaving = threading.Event()
        self._intake = Intake()
        self._settings = where
        self._home = settle_home()
        self._crashes = self._home / "crashes"
        self._ledger = Ledger(where)
        self._storage = Storage(where)
        self._queue = Queue(where)
        if options.compile and not self._on_gpu:
            _log.warning("--compile is for GPUs: on a CPU forwards are recorded, which is as fast")
        rows = options.rows or (CAREFUL_CPU_ROWS if options.deterministic and not self._on_gpu else ROWS)
        loader = ModelLoader(
            self._placement,
            cache=self._home / "models",
            fetch=bucket_fetcher(where),
            compile=self._compile_at_start(rows) if options.compile and self._on_gpu else None,
        )
        self._pool: ModelPool[LoadedModel] = ModelPool(
            registry, _model_budget(self._placement), loader.load, on_drop=self._free_memory
        )
        self._served = ModelService(registry.names, self._pool, ask_bucket=self._storage.find_bucket)
        self._engine = Engine(
            self._losses,
            max_rows=rows,
            deterministic=options.deterministic,
            snapshot_seconds=options.checkpoint_seconds,
            free=partial(free_bytes, self._placement.device),
        )
        self._black_box = BlackBox(self._crashes, self.id)
        self._spool = Spool(self._home / "spool")
        self._previews = Previews(self._storage)
        self._keeper = LeaseKeeper(
            self._ledger,
            self.id,
            describe=self._describe,
            on_lost=self._on_lost,
            on_look=self._on_look,
            is_hung=self._is_hung,
            on_hang=self._on_hang,
        )
        crown = Crown(self._storage, self._ledger)
        retention = Retention(self._ledger, self._storage)
        self._reaper = Reaper(self._ledger, self._queue, self.id, also=(crown.give_where_missing, retention.see_to_it))
        self._runner = JobRunner(
            worker=self.id,
            ledger=self._ledger,
            queue=self._queue,
            storage=self._storage,
            keeper=self._keeper,
            models=self._pool,
            served=self._served,
            engine=self._engine,
            publisher=Publisher(self._storage, worker=self.id, device=self._device),
            crown=crown,
            checkpoints=Checkpoints(self._storage, self._ledger, self.id),
            previews=self._previews,
            spool=self._spool,
            intake=self._intake,
            patience=Patience(self._intake, self._leaving),
            leaving=self._leaving,
            limits=options.limits,
        )

    def _compile_at_start(self, rows: int) -> Compile:
        """Compile models until the worker is ready: from then on jobs would wait for it."""
        numbers = (rows,) if self._options.deterministic else numbers_of_rows(rows)
        kernels = Kernels(self._home / "kernels", self._storage, numbers, secret_of())
        return lambda model: kernels.compile(model) if self._state == "starting" else None

    def run(self) -> None:
        """Load the models, then work until SIGTERM or SIGINT. Raises `FarmError` if it cannot start."""
        if self._options.deterministic:
            choose_deterministic_kernels()
        self._tell_of_the_dead()
        with closing(self._black_box):
            signal.signal(signal.SIGTERM, _leave_before_it_is_ready)
            self._take_the_bucket()
            self._keeper.start()
            try:
                self._served.load()
                self._engine.start()
                self._previews.start()
                self._reaper.start()
                self._consume()
            finally:
                self._keeper.stop()
        self._previews.stop()
        self._reaper.stop()
        self._engine.stop()

    def _take_the_bucket(self) -> None:
        """Make sure that the bucket is the ledger's own, as soon as Redis answers.

        Raises `WrongBucket`, and `LedgerRefused` if this worker may not even say in the ledger that it lives.
        """
        told = False
        while True:
            try:
                tie.tie(self._ledger, self._storage)
                self._ledger.announce(self._describe())
                return
            except LedgerRefused:
                raise
            except LedgerUnavailable as error:
                if not told:
                    _log.warning("whose bucket this is cannot be asked yet: %s", error)
                told = True
                self._leaving.wait(_RETRY_SECONDS)

    def _tell_of_the_dead(self) -> None:
        """Pass on how earlier workers of this machine ended, and forget what their spool holds for nobody."""
        try:
            for worker, how in left_behind(self._crashes):
                _log.warning("the worker %s %s", worker, how)
                self._ledger.note_death(worker, how)
            self._spool.sweep(self._is_over)
        except FarmError as error:
            _log.warning("nothing is told of earlier workers: %s", error)

    def _is_over(self, job: str) -> bool:
        return any(status.is_over for status in self._ledger.get_many([job]))  # what is gone may be recovered

    def _consume(self) -> None:
        """Run Celery's consumer on this thread until a signal asks it to end and the jobs in hand are dealt with."""
        from celery.signals import setup_logging, worker_ready

        setup_logging.connect(_leave_logging_alone)
        transport.install(self._intake)
        app = celery_app(self._settings)
        app.task(name=TASK, ignore_result=True)(self._runner.run)
        consumer = app.Worker(
            hostname=f"{self.id}@{socket.gethostname()}",
            pool_cls="threads",
            concurrency=self._slots,
            queues=[queue_name(name) for name in self._served.names],
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            loglevel=logging.WARNING,
            quiet=True,
        )

        def on_ready(**_: Any) -> None:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)
            self._state = "ready"
            self._announce()
            threading.Thread(
                target=self._served.keep_trying,
                args=(self._leaving, partial(self._serve_also, consumer)),
                name="models-again",
                daemon=True,
            ).start()
            _log.info("ready on %s: %s, %d slots", self._device, ", ".join(self._served.names), self._slots)

        worker_ready.connect(on_ready, weak=False)
        consumer.start()
        if self._state != "draining":
            raise FarmError("the queue's consumer ended by itself", hint="what came before this in the log says why")

    def _serve_also(self, consumer: Any, name: str) -> None:
        """Consume the queue of a model that came late: at once, and whenever the consumer connects again."""
        queues, queue = consumer.app.amqp.queues, queue_name(name)
        queues.select_add(queues[queue])

        def consume() -> None:
            if consumer.consumer.task_consumer is not None:
                consumer.consumer.add_task_queue(queue)

        consumer.consumer.call_soon(consume)  # on the consumer's own thread
        self._announce()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        """First signal: take nothing more, checkpoint and hand back what is in hand. Second: leave at once."""
        from celery.exceptions import WorkerShutdown
        from celery.worker import state

        if self._state == "draining":
            _log.warning("leaving at once")
            self._leave(128 + number)
        self._state = "draining"
        _log.info("leaving: %d jobs in hand, %g s for them", len(self._keeper.held), self._options.grace)
        self._intake.close("it is leaving")
        self._leaving.set()
        self._engine.suspend_all()
        timer = threading.Timer(self._options.grace, self._out_of_time)
        timer.daemon = True
        timer.start()
        threading.Thread(target=self._announce, name="announce", daemon=True).start()
        state.should_stop = 0  # for when the exception comes up where nobody lets it through
        raise WorkerShutdown(0)

    def _out_of_time(self) -> None:
        held = self._keeper.held
        _log.warning("out of time: %d jobs go back as they are", len(held))
        self._leave(0)

    def _leave(self, code: int) -> NoReturn:
        """End the process now. What is in hand goes back to the queue, to go on from its last checkpoint."""
        for claim in self._keeper.held:
            self._runner.hand_back(claim)
        with contextlib.suppress(LedgerUnavailable):  # then the announcement lapses by itself
            self._ledger.depart(self.id)
        self._black_box.close()
        os._exit(code)

    def _announce(self) -> None:
        try:
            self._ledger.announce(self._describe())
        except LedgerUnavailable as error:
            _log.warning("could not be announced: %s", error)

    def _describe(self) -> WorkerInfo:
        return WorkerInfo(
            id=self.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=self._device,
            state=self._state,
            models=self._served.loaded,
            refused=self._served.refused,
            warm=self._pool.warm,
            slots=self._slots,
            jobs=len(self._keeper.held),
            paused=self._intake.reason,
            losses=tuple(self._losses.declarations),
            limits=self._options.limits,
            version=package_versions()["render-farm"],
            started=self._started,
            done=self._runner.done,
            images_per_minute=self._runner.images_per_minute,
        )

    @property
    def _slots(self) -> int:
        return self._options.slots or (64 if self._on_gpu else 16)

    def _on_lost(self, claim: Claim) -> None:
        self._engine.cancel(engine_id(claim))

    def _on_look(self, claim: Claim) -> None:
        self._engine.look_at(engine_id(claim))

    def _is_hung(self) -> bool:
        limit = self._options.stall_seconds or (60.0 if self._on_gpu else 300.0)
        dead = self._state == "ready" and not self._engine.is_alive
        return dead or self._engine.busy_for() > limit

    def _on_hang(self) -> None:
        """Nothing can interrupt a hung kernel, so the process ends; the leases lapse and others take the jobs."""
        where = f"the engine made no progress at {self._engine.whereabouts()}"
        _log.critical("%s: this worker ends", where)
        self._black_box.write(where)
        os._exit(EXIT_HUNG)

    def _free_memory(self) -> None:
        if self._placement.device.type == "cuda":
            torch.cuda.empty_cache()


def _leave_before_it_is_ready(*_: object) -> NoReturn:
    """A handler for SIGTERM while models are loaded: there is nothing to hand back, and the process ends in order."""
    _log.info("leaving before it is ready")
    raise SystemExit(0)


def start(options: Options) -> None:
    """Run a worker on the farm that the environment names. Raises `FarmError` if it cannot start."""
    if options.rows is not None and options.rows < 2:
        raise InvalidInput(f"{options.rows} is too few: a job under guidance takes two rows", field="rows")
    where = settings.load()
    worker = Worker(where, options)
    _log.info("worker %s on Redis %s, bucket %s", worker.id, where.redis_address, where.s3_bucket)
    worker.run()


def _leave_logging_alone(**_: Any) -> None:
    """A receiver of this signal keeps Celery from configuring logging itself."""


def _model_budget(placement: Placement) -> int:
    """Bytes that models may take: most of a GPU's memory, half of a host's."""
    if placement.device.type == "cuda":
        return int(0.6 * torch.cuda.get_device_properties(placement.device).total_memory)
    return int(0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _device_name(placement: Placement) -> str:
    """To be called as the process starts: a later thread has what a forward leaves to others."""
    if placement.device.type == "cuda":
        return torch.cuda.get_device_name(placement.device)
    return f"{placement.device.type} ({torch.get_num_threads()} threads)"
