"""What a worker does with one job: claim, render, publish, finish. Runs on one thread of the Celery pool."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from farm import keys
from farm.bucket.preview import Preview
from farm.bucket.results import JobResult, ModelUsed, ResultObject
from farm.bucket.storage import Storage
from farm.errors import (
    FarmError,
    InvalidInput,
    JobNotFound,
    LedgerRefused,
    LedgerUnavailable,
    ModelError,
    ObjectMissing,
    ObjectTooLarge,
    RenderError,
    StorageError,
)
from farm.jobs.limits import Limits
from farm.jobs.spec import JobSpec
from farm.jobs.status import Waiting
from farm.ledger.ledger import Ledger
from farm.ledger.records import Claim, Suspect, new_token
from farm.pictures import images
from farm.queue import Queue
from worker.diffusion.fitting import fit
from worker.engine.engine import Engine
from worker.engine.request import (
    Cancelled,
    Pixels,
    Rendered,
    RenderRequest,
    Snapshot,
    StepRecord,
    Suspended,
    latent_shape,
    resolve,
)
from worker.host import disk
from worker.job.retry import PATIENCE_SECONDS, HandBack, Lost, Patience
from worker.leases.keeper import Holding, LeaseKeeper
from worker.models.model import LoadedModel
from worker.models.pool import ModelPool
from worker.models.service import ModelService
from worker.queue.intake import Intake
from worker.results.checkpoint import Checkpoint, Checkpoints
from worker.results.finished import Artifact, Finished
from worker.results.png import encode_png
from worker.results.previews import Previews
from worker.results.promote import Crown
from worker.results.publish import Publisher
from worker.results.spool import Spool
from worker.results.trace import TraceWriter

_log = logging.getLogger(__name__)

_DISK_REFUSALS = 3
"""A job that this worker's disk could not hold so many times fails."""
_DISK_SECONDS = 10.0

Letter = tuple[StepRecord, Pixels | None] | Snapshot
"""What the engine says of a job: a traced step, or where it has got to."""


@dataclass
class JobRunner:
    """Everything that a job needs, shared by all jobs of a worker."""

    worker: str
    ledger: Ledger
    queue: Queue
    storage: Storage
    keeper: LeaseKeeper
    models: ModelPool[LoadedModel]
    served: ModelService
    engine: Engine
    publisher: Publisher
    crown: Crown
    checkpoints: Checkpoints
    previews: Previews
    spool: Spool
    intake: Intake
    patience: Patience
    leaving: threading.Event
    limits: Limits
    done: int = 0
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=1_000))
    _disk_refusals: Counter[str] = field(default_factory=Counter)
    _alone: str | None = None
    """The job that has this worker for itself."""

    @property
    def images_per_minute(self) -> float:
        """How many jobs were done in the last minute."""
        since = time.monotonic() - 60
        return float(sum(moment >= since for moment in tuple(self._recent)))

    def run(self, job: str) -> None:
        """Handle a wake-up message for `job`. Whatever becomes of it, this returns and the worker goes on."""
        try:
            with self.intake.entering() as admitted:
                if admitted:
                    self._work_on(self._claim(job), job)
                else:
                    self._put_back(job)
        except Suspect:
            self._run_alone(job)
        except LedgerUnavailable as error:
            _log.warning("job %s was not claimed, and will be offered again: %s", job, error)

    def _claim(self, job: str, *, alone: bool = False) -> Claim | None:
        """Claim a job, or another that waits if it does not.

        While the ledger does not answer, ask again: it may have granted the claim, and nobody knows. Raises
        `LedgerRefused` if it says that this worker may not, and as time runs out `LedgerUnavailable`.
        """
        token, give_up = new_token(), time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self.ledger.claim(
                    job, self.worker, token=token, alone=alone, instead=() if alone else self.served.names
                )
            except LedgerRefused:
                raise
            except LedgerUnavailable:
                if time.monotonic() > give_up or self.leaving.wait(1.0):
                    raise

    def _run_alone(self, job: str) -> None:
        """Work on a job that may be what brought two workers down, when nothing else can suffer from it."""
        with self.intake.alone(f"job {job} outlived two workers, so it gets this one for itself") as is_alone:
            if is_alone:
                _log.warning("job %s outlived two workers: rendering it with no others", job)
                self._alone = job
                try:
                    self._work_on(self._claim(job, alone=True), job)
                finally:
                    self._alone = None
            else:
                self._put_back(job)

    def _put_back(self, job: str) -> None:
        """Offer a job again that came when no jobs were taken any more."""
        with contextlib.suppress(JobNotFound):
            status = self.ledger.get(job)
            if status.state == "queued":
                self.queue.publish([Waiting(job, status.model, status.priority)])

    def _work_on(self, claim: Claim | None, job: str) -> None:
        if claim is None:
            _log.debug("job %s is not waiting", job)
            return
        with self.keeper.holding(claim) as holding:
            result = self._handle(claim, holding)
        if result is not None:
            self.crown.give(result)
            self._tidy_up(claim)

    def _handle(self, claim: Claim, holding: Holding) -> JobResult | None:
        """Bring a claimed job to an end, whatever happens. Returns its result if it is done."""
        try:
            return self._bring_to_an_end(claim, holding)
        except Lost:
            _log.info("job %s was cancelled or is another's by now", claim.job)
            self._after_loss(claim)
        except HandBack:
            self.hand_back(claim)
        except LedgerUnavailable as error:
            _log.warning("job %s is left to its lease: %s", claim.job, error)
        except OSError as error:
            if disk.is_trouble(error):
                self._without_disk(claim, holding, error)
            else:
                self._fail(claim, holding, error)
        except Exception as error:
            self._fail(claim, holding, error)
        return None

    def _bring_to_an_end(self, claim: Claim, holding: Holding) -> JobResult:
        begun = time.monotonic()
        spec = JobSpec.from_json(claim.spec)
        if spec.model not in self.served:
            raise HandBack
        # A job without a trace needs no disk.
        with disk.workspace() if spec.trace.level != "none" else contextlib.nullcontext(Path()) as folder:
            spooled = self.spool.find(claim.job, claim.spec)
            finished = spooled or self._render(claim, holding, spec, folder)
            result = self._publish(claim, holding, finished, is_spooled=spooled is not None)
        fields = {
            "result": keys.attempt_result(claim.job, claim.attempt),
            "warnings": json.dumps(finished.warnings),
        }
        if not self.patience.until(holding, lambda: self.ledger.finish(claim, self.worker, "done", fields)):
            raise Lost
        self.done += 1
        self._recent.append(time.monotonic())
        _log.info("job %s done in %.2f s (attempt %d)", claim.job, time.monotonic() - begun, claim.attempt)
        return result

    def _render(self, claim: Claim, holding: Holding, spec: JobSpec, folder: Path) -> Finished:
        """Render the job, from the beginning or from where an earlier attempt got to."""
        begun = time.monotonic()
        with self.models.using(spec.model) as model:
            loaded = time.monotonic()
            spec = resolve(spec, model)
            self.limits.check(spec, self.worker)
            used = ModelUsed(name=model.name, source=model.source, revision=model.revision, sha256=model.sha256)
            checkpoint = self.checkpoints.load(claim, spec, used, latent_shape(spec, model))
            with TraceWriter(folder, spec.trace.level, checkpoint.trace if checkpoint else None) as trace:

                def save(snapshot: Snapshot) -> None:
                    self.checkpoints.save(claim, spec, used, Checkpoint(snapshot, trace.so_far()))

                request = RenderRequest(
                    id=engine_id(claim),
                    spec=self.limits.timed(spec, alone=claim.job == self._alone),
                    model=model,
                    priority=claim.priority,
                    picture=None if checkpoint else self._init_picture(holding, spec),
                    resume=checkpoint.snapshot if checkpoint else None,
                )
                rendered = self._fly(request, holding, trace, save)
        timings = {"model": loaded - begun, **rendered.timings, "total": time.monotonic() - begun}
        image = Artifact("image.png", "image/png", encode_png(rendered.pixels, spec, used))
        dtype = str(model.dtype).removeprefix("torch.")
        return Finished(spec, used, dtype, rendered.warnings, timings, (image, *trace.files()))

    def _fly(
        self, request: RenderRequest, holding: Holding, trace: TraceWriter, save: Callable[[Snapshot], None]
    ) -> Rendered:
        """Let the engine render, and write down what it says meanwhile."""
        if holding.lost.is_set():
            raise Lost
        holding.step = request.resume.position if request.resume else 0
        mailbox = _Mailbox(holding, request.spec, self.previews)
        future = self.engine.submit(replace(request, observer=mailbox))
        if self.leaving.is_set() or holding.lost.is_set():  # either may have happened as it was being submitted
            self.engine.cancel(request.id)
        future.add_done_callback(mailbox.close)
        try:
            for letter in mailbox.letters():
                if isinstance(letter, Snapshot):
                    save(letter)
                else:
                    trace.add(*letter)
        except BaseException:  # such as a full disk: nobody waits for the job, so it must not fly on
            self.engine.cancel(request.id)
            raise
        try:
            return future.result()
        except Suspended as suspended:
            if suspended.snapshot.position:
                save(suspended.snapshot)
            raise HandBack from None
        except Cancelled:
            raise (Lost if holding.lost.is_set() else HandBack) from None

    def _publish(self, claim: Claim, holding: Holding, finished: Finished, *, is_spooled: bool) -> JobResult:
        """Upload what was made; while the bucket cannot be used, it waits on disk."""
        objects: dict[str, ResultObject] = {}

        def to_disk() -> None:
            nonlocal finished, is_spooled
            if not is_spooled:
                finished, is_spooled = self.spool.keep(claim.job, claim.spec, finished), True

        self.patience.until(holding, lambda: self.publisher.upload(claim, finished, objects), meanwhile=to_disk)
        return self.patience.until(holding, lambda: self.publisher.seal(claim, finished, objects), meanwhile=to_disk)

    def _tidy_up(self, claim: Claim) -> None:
        """The job is over: nothing that was kept for a next attempt is of use any more."""
        self.checkpoints.forget(claim)
        self.previews.forget(claim.job, attempt=claim.attempt)
        self.spool.remove(claim.job)

    def _after_loss(self, claim: Claim) -> None:
        """If the job goes on elsewhere, what this attempt has kept may be of use there."""
        try:
            is_over = self.ledger.get(claim.job).is_over
        except (JobNotFound, LedgerUnavailable):
            is_over = False
        if is_over:
            self._tidy_up(claim)
        else:
            self._let_go(claim)

    def _let_go(self, claim: Claim) -> None:
        """The job goes on elsewhere, perhaps from this attempt's checkpoint."""
        self.checkpoints.let_go(claim)
        self.previews.let_go(claim.job)

    def _init_picture(self, holding: Holding, spec: JobSpec) -> Image.Image | None:
        """The init image at the size of the job, so that the engine neither waits for it nor keeps more."""
        reference = spec.start.image
        if reference is None:
            return None
        try:
            data = self.patience.until(
                holding,
                lambda: self.storage.get(reference.key, limit=images.MAX_BYTES),
                final=(ObjectMissing, ObjectTooLarge),
            )
        except ObjectMissing as error:
            raise InvalidInput(f"the init image {reference.key} is not in the bucket", field="init") from error
        except ObjectTooLarge as error:
            raise InvalidInput(error.message, field="init") from error
        if hashlib.sha256(data).hexdigest() != reference.sha256:
            raise InvalidInput(
                f"{reference.key} in the bucket is not the picture that was put there",
                field="init",
                hint="remove that object, and submit the job again",
            )
        assert spec.width and spec.height, "the spec is resolved"
        return fit(images.decode(data, name=reference.key), spec.width, spec.height, spec.start.fit)

    def hand_back(self, claim: Claim) -> None:
        """Give a job in hand back to the queue, with no blame. Tries once."""
        self._let_go(claim)
        try:
            if self.ledger.release(claim, self.worker):
                model = JobSpec.from_json(claim.spec).model
                self.queue.publish([Waiting(claim.job, model, claim.priority)])
                _log.info("job %s handed back", claim.job)
        except LedgerUnavailable as error:
            _log.warning("job %s is left to its lease: %s", claim.job, error)

    def _without_disk(self, claim: Claim, holding: Holding, error: OSError) -> None:
        """Hand back a job that this disk cannot hold, and take no others for a while or until there is room."""
        reason = f"the disk of {self.worker} cannot hold the trace: {disk.described(error)}"
        self._disk_refusals[claim.job] += 1
        if self._disk_refusals[claim.job] >= _DISK_REFUSALS:
            del self._disk_refusals[claim.job]
            return self._fail(claim, holding, RenderError("disk", reason))
        _log.warning("job %s: %s", claim.job, reason)
        with self.intake.paused(reason):
            self.hand_back(claim)
            give_up = time.monotonic() + _DISK_SECONDS
            while time.monotonic() < give_up and not self.leaving.wait(1.0) and not disk.has_room():
                pass
        return None

    def _fail(self, claim: Claim, holding: Holding, error: Exception) -> None:
        kind, message = _reason(error)
        if kind == "internal":
            _log.error("job %s failed unexpectedly", claim.job, exc_info=error)
        else:
            _log.warning("job %s failed: %s", claim.job, message)
        fields = {"error": json.dumps({"kind": kind, "message": message})}
        try:
            if self.patience.until(holding, lambda: self.ledger.finish(claim, self.worker, "failed", fields)):
                self._tidy_up(claim)
        except (Lost, HandBack, LedgerUnavailable):
            _log.warning("job %s is left to its lease", claim.job)


def engine_id(claim: Claim) -> str:
    """The engine's name for an attempt, so that two attempts of one job cannot be confused."""
    return f"{claim.job}#{claim.attempt}"


class _Mailbox:
    """Carries what the engine says of a job from its thread to those that write it down."""

    def __init__(self, holding: Holding, spec: JobSpec, previews: Previews) -> None:
        assert spec.width and spec.height, "the spec is resolved"
        self._holding = holding
        self._size = spec.width, spec.height
        self._previews = previews
        self._letters: queue.SimpleQueue[Letter | None] = queue.SimpleQueue()

    def on_step(self, done: int) -> None:
        self._holding.step = done

    def on_trace(self, record: StepRecord, frame: Pixels | None) -> None:
        self._letters.put((record, frame))

    def on_snapshot(self, snapshot: Snapshot) -> None:
        self._letters.put(snapshot)

    def on_preview(self, done: int, pixels: Pixels) -> None:
        claim = self._holding.claim
        self._previews.show(Preview(claim.job, claim.attempt, done, self._size, Image.fromarray(pixels)))

    def close(self, _: Future[Rendered]) -> None:
        self._letters.put(None)

    def letters(self) -> Iterator[Letter]:
        """What was said, as it comes, until the job is over."""
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
