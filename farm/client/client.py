"""`FarmClient`: submit, follow and fetch from Python, as the `farm` command does.

from farm.client import FarmClient
from farm.jobs.request import JobRequest

with FarmClient.connect() as farm:
    submission = farm.submit([JobRequest(prompt="a watercolor painting of an otter", count=4)])
    for status in farm.watch(submission.jobs):
        print(status.id, status.state, status.step, "of", status.steps)
    for job in submission.jobs:
        print(*farm.fetch(job, Path("renders")))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from farm import keys, settings
from farm.bucket.fetch import Fetched, fetch, read_result
from farm.bucket.job_log import AttemptLog
from farm.bucket.loras import LORAS, StoredLora
from farm.bucket.manifest import read_manifest, written_manifest
from farm.bucket.preview import Preview
from farm.bucket.results import JobResult
from farm.bucket.storage import Storage
from farm.client import tie
from farm.client.asking import Answered, answer_of, await_answer, check
from farm.client.cancelling import cancel, cancel_all
from farm.client.draining import Told, drain, resume
from farm.client.logs import logs
from farm.client.lora_names import refuse_lost, with_files
from farm.client.model_kinds import refuse_framing
from farm.client.planning import Draft, default_model, drafted, images_of, known_losses, plan
from farm.client.previews import subscribe
from farm.client.prioritising import prioritise
from farm.client.services import ModelService, services
from farm.client.warnings import of_pictures, of_prompts, of_workers
from farm.client.watching import watch
from farm.errors import LedgerUnavailable, ObjectMissing, StorageError, WrongState
from farm.host.interrupts import uninterrupted
from farm.jobs.losses import LossDeclaration
from farm.jobs.request import JobRequest
from farm.jobs.spec import JobSpec
from farm.jobs.status import JobStatus, State, Waiting, WorkerInfo
from farm.ledger.ledger import Ledger
from farm.ledger.records import NewJob, Prioritised
from farm.pictures.images import InitImage
from farm.queue import Queue
from farm.settings import Settings

_AGAIN: tuple[State, ...] = ("failed", "cancelled")
"""The states in which a job can be retried."""


@dataclass(frozen=True)
class Submission:
    """What `submit` did: the batch, its jobs and their specs in order, and anything the user should know."""

    batch: str
    jobs: tuple[str, ...]
    specs: tuple[JobSpec, ...]
    warnings: tuple[str, ...]


class FarmClient:
    """A connection to one farm. Connections to Redis and to the bucket are made when first needed."""

    def __init__(self, where: Settings) -> None:
        self.settings = where
        self._tied = self._checked = False

    @classmethod
    def connect(cls) -> FarmClient:
        """The farm that the environment names, or the local one. Raises `NotConfigured`."""
        return cls(settings.load())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what was opened."""
        for part in ("ledger", "queue"):
            if part in self.__dict__:
                self.__dict__[part].close()

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.settings)

    @cached_property
    def storage(self) -> Storage:
        return Storage(self.settings)

    @cached_property
    def queue(self) -> Queue:
        return Queue(self.settings)

    def check_bucket(self, *, only_to_read: bool = False) -> None:
        """Make sure, once, that the bucket is the ledger's own.

        A ledger that belongs to none is tied to it, unless it is `only_to_read`.
        Raises `WrongBucket`, `LedgerUnavailable`, `StorageError`.
        """
        if self._tied or (only_to_read and self._checked):
            return
        if only_to_read:
            tie.check(self.ledger, self.storage)
            self._checked = True
        else:
            tie.tie(self.ledger, self.storage)
            self._tied = True

    # Submitting

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
                *of_workers(jobs, workers),
                *unpublished,
            ),
        )

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

    # Following

    def resolve(self, names: Iterable[str]) -> list[str]:
        """The job ids that job ids, batch ids or unique beginnings of batch ids mean, each once."""
        return list(dict.fromkeys(job for name in names for job in self.ledger.resolve(name)))

    def list(self, *, state: State | None = None, limit: int = 50, offset: int = 0) -> Sequence[JobStatus]:
        """The newest jobs first: those of a page whose record is there."""
        return self.ledger.page(state=state, limit=limit, offset=offset)

    def status(self, names: Iterable[str]) -> Sequence[JobStatus]:
        """The status of each job meant by `names` whose record is there."""
        return self.ledger.get_many(self.resolve(names))

    def watch(self, jobs: Sequence[str]) -> Iterator[JobStatus]:
        """Every status of the jobs as it changes, from what it is now until all of them are over.

        A job whose record is lost on the way is not followed any further. An outage of Redis of up to half a
        minute is waited out. Raises `JobNotFound`, `LedgerUnavailable`.
        """
        return watch(self.ledger, jobs)

    def previews(self, jobs: Sequence[str]) -> dict[str, Preview]:
        """How jobs that are being rendered look, as far as there is anything to see.

        Looking is what makes workers show it: ask again and again, about once a second.
        Raises `WrongBucket`, `LedgerUnavailable`, `StorageError`.
        """
        self.check_bucket(only_to_read=True)
        return subscribe(self.ledger, self.storage, jobs)

    def cancel(self, names: Iterable[str]) -> dict[str, State]:
        """Cancel queued and running jobs. Returns the state each job was in. What has no record is left out."""
        return cancel(self.ledger, lambda: self.storage, self.resolve(names))

    def cancel_all(self) -> dict[str, State]:
        """Cancel every queued and running job of the farm. Returns the state each job was in."""
        return cancel_all(self.ledger, lambda: self.storage)

    def prioritise(
        self, names: Iterable[str], priority: int | None = None, *, by: int | None = None
    ) -> dict[str, Prioritised]:
        """Give queued jobs a priority from 0 to 9, or raise theirs `by` so much (below 0: lower it), within 0 to 9.

        Returns the state each job is in, and the priorities it had and has. What has no record is left out.
        Raises `InvalidInput`, `JobNotFound`.
        """
        return prioritise(self.ledger, self.resolve(names), priority, by=by)

    def retry(self, names: Iterable[str]) -> Sequence[str]:
        """Queue failed and cancelled jobs again.

        Raises `WrongState` if none of them is either, and before any is queued if the farm keeps a LoRA of one no
        longer; `LedgerUnavailable` and, where there are LoRAs, `WrongBucket` and `StorageError`.
        """
        statuses = self.ledger.get_many(self.resolve(names))
        if having := self._with_loras(statuses):
            self.check_bucket(only_to_read=True)
            refuse_lost(self.storage, having)
        before = {status.id: self.ledger.retry(status.id) for status in statuses}
        again = [job for job, state in before.items() if state in _AGAIN]
        if not again:
            states = ", ".join(sorted(set(before.values())))
            raise WrongState(f"nothing to retry: {states}", hint="only failed and cancelled jobs can be retried")
        statuses = self.ledger.get_many(again)
        self._publish(Waiting(status.id, status.model, status.priority) for status in statuses)
        return again

    def asks_the_bucket(self, names: Iterable[str]) -> bool:
        """Whether to retry these jobs takes more than the ledger: a look at the LoRAs that the farm keeps."""
        return bool(self._with_loras(self.ledger.get_many(self.resolve(names))))

    def _with_loras(self, statuses: Iterable[JobStatus]) -> dict[str, JobSpec]:
        """What those of failed and cancelled jobs render that name LoRAs."""
        again = [status.id for status in statuses if status.state in _AGAIN]
        return {job: spec for job, spec in self.ledger.specs(again).items() if spec.loras}

    # Fetching

    def result(self, job: str) -> JobResult:
        """The `result.json` of a finished job.

        Raises `JobNotFound`, `WrongState`, `WrongBucket`, `ObjectMissing`, `StorageError`.
        """
        status = self.ledger.get(job)
        if status.result is None:
            raise WrongState(f"job {job} is {status.state}, so it has no result", hint=f"see 'farm status {job}'")
        self.check_bucket(only_to_read=True)
        result = read_result(self.storage, status.result)
        if result.job != job:
            raise StorageError(f"{status.result} is the result of {result.job}, not of {job}")
        return result

    def logs(self, job: str) -> Sequence[AttemptLog]:
        """The last lines that workers logged of a job, by attempt: of those that were anything but a plain success.

        Raises `JobNotFound`, `WrongBucket`, `LedgerUnavailable`, `StorageError`.
        """
        self.check_bucket(only_to_read=True)
        return logs(self.ledger, self.storage, job)

    def ask(self, request: JobRequest, *, on_warning: Callable[[str], None] = lambda _: None) -> Answered:
        """Ask a study, ahead of all pictures, and wait for its answer. `on_warning` hears at once what may hold it up.

        A question that is interrupted (Ctrl-C) is cancelled. Raises what `submit`, `watch` and `result` do, and
        `RenderError` saying why there is no answer.
        """
        check(request)
        submission = self.submit([request])
        (job,) = submission.jobs
        try:
            for warning in submission.warnings:
                on_warning(warning)
            await_answer(job, self.watch([job]))
        except KeyboardInterrupt:
            with uninterrupted():  # whoever is impatient presses it twice
                self.cancel([job])
            raise
        result = self.result(job)
        return Answered(answer_of(self.storage, result), result)

    def fetch(self, job: str, out: Path, *, everything: bool = False, overwrite: bool = False) -> Iterator[Fetched]:
        """Bring a finished job's image (or everything it made) into `out`.

        Raises `JobNotFound`, `WrongState`, `WrongBucket`, `FetchRefused`, `ObjectMissing`.
        """
        return fetch(self.storage, self.result(job), out, everything=everything, overwrite=overwrite)

    # The farm

    def workers(self) -> Sequence[WorkerInfo]:
        """The workers that live now."""
        return self.ledger.workers()

    def drain(self, workers: Iterable[str], *, hand_back: bool = False) -> Told:
        """Let workers, by id or name, take no more jobs: what they have they finish, or hand back at the next step.

        It holds for all of that name, also when they are started anew, until `resume`. They hear of it within a second.
        Raises `WorkerNotFound`, `LedgerUnavailable`.
        """
        return drain(self.ledger, workers, hand_back=hand_back)

    def resume(self, workers: Iterable[str]) -> Told:
        """Let workers, by id or name, take jobs again. Raises `WorkerNotFound`, `LedgerUnavailable`."""
        return resume(self.ledger, workers)

    def models(self) -> Sequence[ModelService]:
        """Every model that a live worker serves or a job waits for."""
        return services(self.ledger)

    def loras(self) -> Sequence[StoredLora]:
        """Every LoRA that the farm keeps, by name, but for manifests that are damaged.

        Raises `WrongBucket`, `LedgerUnavailable`, `StorageError`.
        """
        self.check_bucket(only_to_read=True)
        return [kept for kept in LORAS.everything(self.storage) if isinstance(kept, StoredLora)]

    def losses(self) -> Sequence[LossDeclaration]:
        """The built-in losses and those that live workers announce."""
        return known_losses(self.ledger.workers())
