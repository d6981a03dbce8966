"""Rendering a job with the engine, from the beginning or from where an earlier attempt got to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from farm.bucket.results import ModelUsed
from farm.bucket.storage import Storage
from farm.jobs.limits import Limits
from farm.jobs.spec import JobSpec, ResolvedSpec
from farm.ledger.records import Claim
from worker.bucket.adapters import Adapters
from worker.diffusion.losses import Losses
from worker.engine.engine import Engine
from worker.engine.request import (
    Cancelled,
    Rendered,
    RenderRequest,
    Snapshot,
    Suspended,
    latent_shape,
    resolve,
)
from worker.job.events import EventQueue
from worker.job.init_picture import Masked, init_picture, masked_picture
from worker.job.retry import HandBack, Lost, Retrier
from worker.job.stack import stack_of, used_in_part
from worker.leases.keeper import Holding
from worker.models.model import LoadedModel
from worker.models.pool import ModelPool
from worker.results.checkpoint import Checkpoint, Checkpoints
from worker.results.finished import Artifact, Finished
from worker.results.png import encode_png
from worker.results.previews import Previews
from worker.results.trace import TraceWriter


@dataclass(frozen=True)
class Renderer:
    """One worker's way from a job's spec to its picture and trace."""

    worker: str
    engine: Engine
    models: ModelPool[LoadedModel]
    limits: Limits
    losses: Losses
    storage: Storage
    adapters: Adapters
    checkpoints: Checkpoints
    previews: Previews
    retrier: Retrier
    leaving: threading.Event

    def render(self, holding: Holding, spec: JobSpec, folder: Path, *, alone: bool) -> Finished:
        """Render a job; its trace is written below `folder`. One that is rendered `alone` has its own time limit.

        Raises `Lost` and `HandBack` when the job is not this worker's to finish, and what makes it fail.
        """
        began, claim = time.monotonic(), holding.claim
        with self.models.using(spec.model) as model:
            loaded = time.monotonic()
            spec = resolve(spec, model, self.losses)
            self.limits.check(spec, self.worker)
            used = model_used(model)
            stack = stack_of(self.adapters, self.retrier, holding, spec, model)
            model.get_ready(stack)
            masked = masked_picture(self.storage, self.retrier, holding, spec)
            checkpoint = self.checkpoints.load(claim, spec, used, latent_shape(spec, model))
            with TraceWriter(folder, spec.trace.level, checkpoint.trace if checkpoint else None) as trace:

                def save(snapshot: Snapshot) -> None:
                    self.checkpoints.save(claim, spec, used, Checkpoint(snapshot, trace.so_far()))

                request = RenderRequest(
                    id=engine_id(claim),
                    spec=self.limits.timed(spec, alone=alone),
                    model=model,
                    priority=claim.priority,
                    picture=self._picture(holding, spec, masked, resumes=checkpoint is not None),
                    mask=masked.mask if masked else None,
                    resume=checkpoint.snapshot if checkpoint else None,
                    stack=stack,
                )
                rendered = self._rendered(request, holding, trace, save)
        before = {"queued": claim.waited, "model": loaded - began}
        timings = {**before, **rendered.timings, "total": time.monotonic() - began}
        pixels = masked.put_back(rendered.pixels) if masked else rendered.pixels
        image = Artifact("image.png", "image/png", encode_png(pixels, spec, used))
        dtype = str(model.dtype).removeprefix("torch.")
        warnings = (*used_in_part(spec, stack, model), *rendered.warnings, *(masked.warnings if masked else ()))
        return Finished(spec, used, dtype, warnings, timings, (image, *trace.files()), rendered.report)

    def _picture(
        self, holding: Holding, spec: ResolvedSpec, masked: Masked | None, *, resumes: bool
    ) -> Image.Image | None:
        """What a job starts from. One that goes on from a checkpoint has no use for it, unless a part of it is kept."""
        if masked is not None:
            return masked.picture
        return None if resumes else init_picture(self.storage, self.retrier, holding, spec)

    def _rendered(
        self, request: RenderRequest, holding: Holding, trace: TraceWriter, save: Callable[[Snapshot], None]
    ) -> Rendered:
        """Let the engine render, and write down what it says meanwhile."""
        if holding.lost.is_set():
            raise Lost
        holding.step = request.resume.position if request.resume else 0
        events = EventQueue(holding, request.spec, self.previews)
        future = self.engine.submit(replace(request, observer=events))
        if self.leaving.is_set() or holding.lost.is_set():  # either may have happened as it was being submitted
            self.engine.cancel(request.id)
        future.add_done_callback(events.close)
        try:
            for event in events.until_closed():
                if isinstance(event, Snapshot):
                    save(event)
                elif isinstance(event, tuple):
                    trace.add(*event)
                else:
                    trace.add_start(event)
        except BaseException:  # such as a full disk: nobody waits for the job, so it must not go on
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


def model_used(model: LoadedModel) -> ModelUsed:
    """What a result says of the model."""
    return ModelUsed(
        name=model.name,
        source=model.source,
        revision=model.revision,
        sha256=model.sha256,
        vae=model.vae_file,
        vae_sha256=model.vae_sha256,
    )


def engine_id(claim: Claim) -> str:
    """The engine's name for an attempt, so that two attempts of one job cannot be confused."""
    return f"{claim.job}#{claim.attempt}"
