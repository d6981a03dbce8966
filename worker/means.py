"""What the parts of a worker process work with: its device, its folders, the farm's stores, losses and models."""

from __future__ import annotations

import os
import socket
import threading
from functools import cached_property, partial
from pathlib import Path

from farm import keys, variables
from farm.bucket.loras import LORAS
from farm.bucket.storage import Storage
from farm.ledger.ledger import Ledger
from farm.queue import Queue
from farm.settings import Settings
from worker.bucket.adapters import Adapters
from worker.bucket.catalogue import Catalogue
from worker.bucket.compile_cache import CompileCache
from worker.bucket.model_cache import GB, ModelCache
from worker.bucket.models import bucket_fetcher
from worker.diffusion.losses import Loss, load_losses
from worker.engine.rows import CAREFUL_CPU_ROWS, ROWS
from worker.host.crash_report import CrashReport
from worker.host.home import settle_home
from worker.models.compiled import numbers_of_rows
from worker.models.device import free_cached_memory, model_budget, name_of, place
from worker.models.embeddings import load_embeddings, with_embeddings
from worker.models.loader import Compile, ModelLoader
from worker.models.model import LoadedModel
from worker.models.pool import ModelPool
from worker.models.registry import ModelRegistry
from worker.models.service import ModelService
from worker.options import DEFAULT_CACHE_GB, DEFAULT_MODELS, Options
from worker.queue.intake import Intake
from worker.results.checkpoint import Checkpoints
from worker.results.previews import Previews
from worker.results.promote import Promoter
from worker.results.spool import Spool


class Means:
    """What a worker on one device has. All of it is made before any thread is started: making takes no lock."""

    def __init__(self, where: Settings, options: Options) -> None:
        self.id = keys.new_worker_id(options.name or socket.gethostname())
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
    def _cache(self) -> ModelCache:
        told = self._options.model_cache_gb or variables.MODEL_CACHE_GB.of(os.environ) or DEFAULT_CACHE_GB
        return ModelCache(self._home / "models" / "farm", self._storage, int(told * GB))

    @cached_property
    def _catalogue(self) -> Catalogue:
        return Catalogue(self._storage, self._cache, self._models, all_of_them=not self._options.models)

    @cached_property
    def _adapters(self) -> Adapters:
        return Adapters(self._storage, self._cache.of(LORAS))

    def _compile_at_start(self) -> Compile:
        """Compile models until the worker is ready: from then on jobs would wait for it."""
        numbers = (self._rows,) if self._options.deterministic else numbers_of_rows(self._rows)
        cache = CompileCache(self._home / "kernels", self._storage, numbers, variables.KERNELS_KEY.of(os.environ))
        return lambda model: None if self._is_ready else cache.compile(model)

    @cached_property
    def _served(self) -> ModelService:
        return ModelService(self._models.names, self._pool, ask_bucket=self._storage.find_bucket)
