"""Submitting requests: checked, planned, stored in the bucket, queued in the ledger, and published."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from farm import keys
from farm.bucket.manifest import read_manifest, written_manifest
from farm.bucket.models import manifests
from farm.client.connection import Connection
from farm.client.lora_names import with_files
from farm.client.model_kinds import refuse_framing
from farm.client.planning import Draft, default_model, drafted, images_of, known_losses, plan
from farm.client.warnings import of_pictures, of_prompts, of_workers
from farm.errors import LedgerUnavailable, ObjectMissing, StorageError, WrongBucket
from farm.jobs.request import JobRequest
from farm.jobs.spec import JobSpec
from farm.jobs.status import Waiting
from farm.ledger.records import NewJob
from farm.pictures.images import InitImage


@dataclass(frozen=True)
class Submission:
    """What `submit` did: the batch, its jobs and their specs in order, and anything the user should know."""

    batch: str
    jobs: tuple[str, ...]
    specs: tuple[JobSpec, ...]
    warnings: tuple[str, ...]


class Submitting(Connection):
    """What submits."""

    def submit(self, requests: Iterable[JobRequest | Draft], *, batch: str | None = None) -> Submission:
        """Submit requests as one batch. Everything is checked before anything is sent; drafts were checked already.

        A submission whose answer was lost can be sent again under the same `batch` id: the batch stays as it was
        first stored, with its seeds, and only what is missing of it is queued. `farm recover` does the same, and the
        error says so.
        Raises `InvalidInput`, `WrongBucket`, `LedgerUnavailable`, `StorageError`.
        """
        drafts = drafted(requests)
        images = images_of(drafts)
        workers = self.ledger.workers()
        jobs = self._stored(batch) if batch else None
        if jobs is None:
            batch = batch or keys.new_batch_id()
            planned = plan(drafts, batch, default_model=default_model(workers), declarations=known_losses(workers))
            self._check_framing(planned, drafts)
            jobs = self._with_files(planned, drafts)
            self._store(batch, jobs, images)
        assert batch
        try:
            queued = set(self.ledger.create(batch, jobs))
        except LedgerUnavailable as error:
            raise LedgerUnavailable(
                f"batch {batch} is stored, but may not be queued: {error.message}",
                hint="do not submit it again: 'farm recover' queues what is missing of it",
            ) from error
        unpublished = self._publish(Waiting(job.id, job.spec.model, job.priority) for job in jobs if job.id in queued)
        return Submission(
            batch,
            jobs=tuple(job.id for job in jobs),
            specs=tuple(job.spec for job in jobs),
            warnings=(
                *of_pictures(images),
                *of_prompts(draft.request for draft in drafts),
                *of_workers(jobs, workers, self._names_kept),
                *unpublished,
            ),
        )

    def _names_kept(self) -> Collection[str]:
        """The names of the models that the farm keeps, as far as that can be told now."""
        try:
            self.check_bucket(only_to_read=True)
            return manifests(self.storage)
        except (StorageError, WrongBucket):
            return ()

    def _check_framing(self, jobs: Sequence[NewJob], drafts: Sequence[Draft]) -> None:
        """Refuse to tell a model of sizes that it is not told of, as far as this farm knows what it is."""
        if any(job.spec.framing for job in jobs):
            self.check_bucket(only_to_read=True)
            refuse_framing(self.storage, jobs, drafts)

    def _with_files(self, jobs: Sequence[NewJob], drafts: Sequence[Draft]) -> Sequence[NewJob]:
        """The jobs, with the files that the names of their LoRAs mean in this farm."""
        if any(job.spec.loras for job in jobs):
            self.check_bucket()
            jobs = with_files(self.storage, jobs, drafts)
        return jobs

    def _publish(self, waiting: Iterable[Waiting]) -> tuple[str, ...]:
        """Wake workers up for jobs that the ledger has queued. A warning if that failed; they find out anyway."""
        try:
            self.queue.publish(waiting)
        except LedgerUnavailable as error:
            return (f"the jobs are queued, but no worker could be told: one will look within minutes ({error})",)
        return ()

    def _stored(self, batch: str) -> Sequence[NewJob] | None:
        """The jobs of a batch that was stored before, or None."""
        self.check_bucket()
        try:
            manifest = read_manifest(self.storage, batch)
        except ObjectMissing:
            return None
        self.storage.delete(keys.forgotten(batch))  # whoever submits it again wants all of it
        return [NewJob(job.id, job.spec, job.priority, job.labels) for job in manifest.jobs]

    def _store(self, batch: str, jobs: Sequence[NewJob], images: Iterable[InitImage]) -> None:
        """Put what the jobs need into the bucket: their init images, then the manifest with every spec."""
        written = written_manifest(batch, jobs)
        self.check_bucket()
        for image in {image.sha256: image for image in images}.values():
            self._upload(image)
        self.storage.put(keys.batch_manifest(batch), written, "application/json")

    def _upload(self, image: InitImage) -> None:
        key = keys.init_image(image.sha256, image.extension)
        if not self.storage.exists(key):
            self.storage.put(key, image.data, f"image/{image.extension}")
