"""Answering a study: each piece of it that needs the model is an errand of the engine, which goes ahead of pictures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from farm.bucket.results import ANSWER
from farm.bucket.storage import Storage
from farm.errors import RenderError
from farm.jobs.limits import Limits
from farm.jobs.spec import JobSpec
from worker.diffusion.losses import Losses
from worker.engine.engine import Engine
from worker.engine.memory import Budget, FreeBytes
from worker.engine.request import Cancelled, latent_shape, resolve
from worker.job.init_picture import init_picture
from worker.job.render import engine_id, model_used
from worker.job.retry import HandBack, Lost, Retrier
from worker.leases.keeper import Holding
from worker.models.model import LoadedModel
from worker.models.pool import ModelPool
from worker.results.finished import Artifact, Finished
from worker.studies import kinds
from worker.studies.study import Asked

T = TypeVar("T")


@dataclass(frozen=True)
class Answerer:
    """One worker's way from a study's spec to its answer. `free` tells what memory is left, in bytes."""

    worker: str
    engine: Engine
    models: ModelPool[LoadedModel]
    limits: Limits
    losses: Losses
    storage: Storage
    retrier: Retrier
    leaving: threading.Event
    free: FreeBytes = lambda: None

    def answer(self, holding: Holding, spec: JobSpec, *, alone: bool) -> Finished:
        """Answer a study. There is no checkpoint: an attempt that is cut short is made again from the beginning.

        Raises `Lost` and `HandBack` when the job is not this worker's to finish, and what makes it fail.
        """
        began, claim = time.monotonic(), holding.claim
        with self.models.using(spec.model) as model:
            loaded = time.monotonic()
            resolved = resolve(spec, model, self.losses)
            self.limits.check(resolved, self.worker)
            budget = Budget(self.free)
            asked = Asked(
                spec=resolved,
                model=model,
                picture=init_picture(self.storage, self.retrier, holding, resolved),
                has_room=lambda shape: budget.pictures(model, shape, 1) > 0,
            )
            limit = self.limits.timed(resolved, alone=alone).time_limit
            is_large = resolved.mode == "roundtrip" and model.is_large(latent_shape(resolved, model))
            compute = _Errands(self.engine, engine_id(claim), holding, self.leaving, limit, in_parts=is_large)
            answered = kinds.BY_NAME[resolved.mode](asked, compute)
        ended = time.monotonic()
        timings = {"queued": claim.waited, "model": loaded - began, "answer": ended - loaded, "total": ended - began}
        used = model_used(model)
        told = Artifact(ANSWER, "application/json", answered.answer.model_dump_json(indent=2).encode())
        dtype = str(model.dtype).removeprefix("torch.")
        return Finished(resolved, used, dtype, answered.warnings, timings, (told, *answered.artifacts))


class _Errands:
    """Has pieces of one study done by the engine, for as long as anybody wants its answer."""

    def __init__(
        self,
        engine: Engine,
        id: str,
        holding: Holding,
        leaving: threading.Event,
        limit: float | None,
        *,
        in_parts: bool,
    ) -> None:
        self._engine = engine
        self._id = id
        self._holding = holding
        self._leaving = leaving
        self._limit = limit
        self._in_parts = in_parts
        self._began = time.monotonic()

    def __call__(self, work: Callable[[], T]) -> T:
        if self._holding.lost.is_set():
            raise Lost
        if self._leaving.is_set():
            raise HandBack
        if self._limit is not None and time.monotonic() - self._began > self._limit:
            raise RenderError("timeout", f"not answered within its time limit of {self._limit:g} s")
        try:
            return self._engine.errand(self._id, work, in_parts=self._in_parts).result()
        except Cancelled:
            raise HandBack from None
