"""What a worker does with one job: claim, render, publish, finish. Runs on one thread of the Celery pool."""

from __future__ import annotations

import json
import logging
import queue
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from PIL import Image

from farm import images, keys
from farm.errors import (
    FarmError,
    InvalidInput,
    LedgerUnavailable,
    ModelError,
    ObjectMissing,
    ObjectTooLarge,
    RenderError,
    StorageError,
)
from farm.jobs import Waiting
from farm.ledger import Claim, Ledger
from farm.queue import Queue
from farm.results import JobResult, ModelUsed
from farm.spec import JobSpec
from farm.storage import Storage
from worker.diffusion import latents
from worker.engine.engine import Engine
from worker.engine.request import Cancelled, Pixels, Rendered, RenderRequest, StepRecord, resolve
from worker.lease import Holding, LeaseKeeper
from worker.models.loader import LoadedModel
from worker.models.pool import ModelPool
from worker.publish import Publisher
from worker.trace import TraceWriter

_log = logging.getLogger(__name__)

PATIENCE_SECONDS = 600.0
"""How long a finished picture waits for a bucket or a ledger that does not answer."""

Answer = TypeVar("Answer")


class Lost(Exception):
    """The job is not this worker's any more: cancelled, or taken by another after its lease lapsed."""


class HandBack(Exception):
    """The worker leaves, or does not serve the job's model: the job goes back to the queue."""


@dataclass
class JobRunner:
    """Everything that a job needs, shared by all jobs of a worker."""

    worker: str
    ledger: Ledger
    queue: Queue
    storage: Storage
    keeper: LeaseKeeper
    models: ModelPool[LoadedModel]
    served: frozenset[str]
    engine: Engine
    publisher: Publisher
    leaving: threading.Event
    done: int = 0
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=1_000))

    @property
    def images_per_minute(self) -> float:
        """How many jobs were done in the last minute."""
        since = time.monotonic() - 60
        return float(sum(moment >= since for moment in tuple(self._recent)))

    def run(self, job: str) -> None:
        """Handle a wake-up message for `job`. Whatever becomes of it, this returns and the worker goes on."""
        try:
            claim = self.ledger.claim(job, self.worker)
        except LedgerUnavailable as error:
            _log.warning("job %s was not claimed, and will be offered again: %s", job, error)
            return
        if claim is None:
            _log.debug("job %s is not waiting", job)
            return
        with self.keeper.holding(claim) as holding:
            result = self._handle(claim, holding)
        if result is not None:
            self._crown(result)

    def _handle(self, claim: Claim, holding: Holding) -> JobResult | None:
        """Bring a claimed job to an end, whatever happens. Returns its result if it is done."""
        try:
            return self._render_and_publish(claim, holding)
        except Lost:
            _log.info("job %s was cancelled or is another's by now", claim.job)
        except HandBack:
            self.hand_back(claim)
        except LedgerUnavailable as error:
            _log.warning("job %s is left to its lease: %s", claim.job, error)
        except Exception as error:
            self._fail(claim, holding, error)
        return None

    def _render_and_publish(self, claim: Claim, holding: Holding) -> JobResult:
        begun = time.monotonic()
        spec = JobSpec.from_json(claim.spec)
        if spec.model not in self.served:
            raise HandBack
        with tempfile.TemporaryDirectory(prefix="farm-job-") as folder, self.models.using(spec.model) as model:
            loaded = time.monotonic()
            spec = resolve(spec, model)
            with TraceWriter(Path(folder), spec.trace.level) as trace:
                rendered = self._render(claim, holding, spec, model, trace)
            used = ModelUsed(name=model.name, source=model.source, revision=model.revision)
            dtype = str(model.dtype).removeprefix("torch.")
            objects = self._patiently(
                holding, lambda: self.publisher.upload(claim, spec, used, rendered, trace.files())
            )
        timings = {"model": loaded - begun, **rendered.timings, "total": time.monotonic() - begun}
        result = self._patiently(
            holding,
            lambda: self.publisher.seal(claim, spec, used, rendered, objects, dtype=dtype, timings=timings),
        )
        fields = {
            "result": keys.attempt_result(claim.job, claim.attempt),
            "warnings": json.dumps(rendered.warnings),
        }
        if not self._patiently(holding, lambda: self.ledger.finish(claim, self.worker, "done", fields)):
            raise Lost
        self.done += 1
        self._recent.append(time.monotonic())
        _log.info("job %s done in %.2f s (attempt %d)", claim.job, timings["total"], claim.attempt)
        return result

    def _crown(self, result: JobResult) -> None:
        """Copy a finished job's result to where it is found without the ledger; the ledger names the original."""
        try:
            self.publisher.crown(result)
        except StorageError as error:
            _log.warning("%s was not written: %s", keys.result(result.job), error)

    def _render(
        self, claim: Claim, holding: Holding, spec: JobSpec, model: LoadedModel, trace: TraceWriter
    ) -> Rendered:
        """Let the engine render, and write down the trace meanwhile."""
        mailbox = _Mailbox(holding)
        request = RenderRequest(
            id=engine_id(claim),
            spec=spec,
            model=model,
            priority=claim.priority,
            picture=self._init_picture(holding, spec),
            observer=mailbox,
        )
        if holding.lost.is_set():
            raise Lost
        future = self.engine.submit(request)
        if self.leaving.is_set() or holding.lost.is_set():  # either may have happened as it was being submitted
            self.engine.cancel(request.id)
        future.add_done_callback(mailbox.close)
        try:
            for record, frame in mailbox.letters():
                trace.add(record, frame)
        except BaseException:  # such as a full disk: the job fails, so it must not fly on
            self.engine.cancel(request.id)
            raise
        try:
            return future.result()
        except Cancelled:
            raise (Lost if holding.lost.is_set() else HandBack) from None

    def _init_picture(self, holding: Holding, spec: JobSpec) -> Image.Image | None:
        """The init image, cut to the size of the job here, so that the engine neither waits for it nor keeps more."""
        reference = spec.start.image
        if reference is None:
            return None
        try:
            data = self._patiently(holding, lambda: self.storage.get(reference.key, limit=images.MAX_BYTES))
        except ObjectMissing as error:
            raise InvalidInput(f"the init image {reference.key} is not in the bucket", field="init") from error
        except ObjectTooLarge as error:
            raise InvalidInput(error.message, field="init") from error
        assert spec.width and spec.height, "the spec is resolved"
        return latents.fit(images.decode(data, name=reference.key), spec.width, spec.height)

    def _patiently(self, holding: Holding, action: Callable[[], Answer]) -> Answer:
        """Do `action`, again and again while the bucket or the ledger does not answer, for ten minutes."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        delay = 0.5
        while True:
            try:
                return action()
            except (ObjectMissing, ObjectTooLarge):
                raise
            except (StorageError, LedgerUnavailable) as error:
                if holding.lost.is_set():
                    raise Lost from error
                if self.leaving.is_set():
                    raise HandBack from error
                if time.monotonic() > give_up:
                    raise
                _log.warning("job %s waits: %s", holding.claim.job, error)
                holding.lost.wait(delay)
                delay = min(2 * delay, 10.0)

    def hand_back(self, claim: Claim) -> None:
        """Give a job in hand back to the queue, with no blame. Tries once."""
        try:
            if self.ledger.release(claim, self.worker):
                model = JobSpec.from_json(claim.spec).model
                self.queue.publish([Waiting(claim.job, model, claim.priority)])
                _log.info("job %s handed back", claim.job)
        except LedgerUnavailable as error:
            _log.warning("job %s is left to its lease: %s", claim.job, error)

    def _fail(self, claim: Claim, holding: Holding, error: Exception) -> None:
        kind, message = _reason(error)
        if kind == "internal":
            _log.error("job %s failed unexpectedly", claim.job, exc_info=error)
        else:
            _log.warning("job %s failed: %s", claim.job, message)
        fields = {"error": json.dumps({"kind": kind, "message": message})}
        try:
            self._patiently(holding, lambda: self.ledger.finish(claim, self.worker, "failed", fields))
        except (Lost, HandBack, LedgerUnavailable):
            _log.warning("job %s is left to its lease", claim.job)


def engine_id(claim: Claim) -> str:
    """The engine's name for an attempt, so that two attempts of one job cannot be confused."""
    return f"{claim.job}#{claim.attempt}"


class _Mailbox:
    """Carries a job's trace from the engine's thread to the thread that writes it down."""

    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self._letters: queue.SimpleQueue[tuple[StepRecord, Pixels | None] | None] = queue.SimpleQueue()

    def on_step(self, done: int) -> None:
        self._holding.step = done

    def on_trace(self, record: StepRecord, frame: Pixels | None) -> None:
        self._letters.put((record, frame))

    def close(self, _: Future[Rendered]) -> None:
        self._letters.put(None)

    def letters(self) -> Iterator[tuple[StepRecord, Pixels | None]]:
        """What was traced, as it comes, until the job is over."""
        while (letter := self._letters.get()) is not None:
            yield letter


def _reason(error: Exception) -> tuple[str, str]:
    """A stable word for programs and a sentence for people."""
    match error:
        case RenderError():
            return error.kind, str(error)
        case InvalidInput():
            return "invalid", str(error)
        case ModelError():
            return "model", str(error)
        case StorageError():
            return "storage", str(error)
        case FarmError():
            return "refused", str(error)
        case _:
            return "internal", f"{type(error).__name__}: {error}"
