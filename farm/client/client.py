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
from functools import cache
from pathlib import Path

from farm.bucket.fetch import Fetched, fetch, read_result
from farm.bucket.job_log import AttemptLog
from farm.bucket.loras import LORAS, StoredLora
from farm.bucket.models import MODELS, StoredModel
from farm.bucket.preview import Preview
from farm.bucket.results import JobResult
from farm.client.asking import Answered, answer_of, await_answer, check
from farm.client.cancelling import cancel, cancel_all
from farm.client.draining import Told, drain, resume
from farm.client.logs import logs
from farm.client.lora_names import refuse_lost
from farm.client.planning import known_losses
from farm.client.previews import subscribe
from farm.client.prioritising import prioritise
from farm.client.services import ModelService, services
from farm.client.submitting import Submission as Submission
from farm.client.submitting import Submitting
from farm.client.waits import TellsOnce, held_up
from farm.client.watching import watch
from farm.errors import InvalidInput, StorageError, WrongState
from farm.host.interrupts import uninterrupted
from farm.jobs.faults import quoted
from farm.jobs.losses import LossDeclaration
from farm.jobs.request import JobRequest
from farm.jobs.spec import JobSpec
from farm.jobs.status import STATES, JobStatus, State, Waiting, WorkerInfo
from farm.ledger.records import Prioritised

_AGAIN: tuple[State, ...] = ("failed", "cancelled")
"""The states in which a job can be retried."""


class FarmClient(Submitting):
    """A connection to one farm. Connections to Redis and to the bucket are made when first needed."""

    # Following

    def resolve(self, names: Iterable[str]) -> list[str]:
        """The job ids that job ids, batch ids or unique beginnings of batch ids mean, each once."""
        return list(dict.fromkeys(job for name in names for job in self.ledger.resolve(name)))

    def list(self, *, state: State | None = None, limit: int = 50, offset: int = 0) -> Sequence[JobStatus]:
        """The newest jobs first: those of a page whose record is there. Raises `InvalidInput`, `LedgerUnavailable`."""
        for field, number in (("limit", limit), ("offset", offset)):
            if number < 0:
                raise InvalidInput(f"{number} is less than 0", field=field)
        if state is not None and state not in STATES:
            raise InvalidInput(f"there is no state {quoted(state)}", field="state", hint=f"known: {', '.join(STATES)}")
        return self.ledger.page(state=state, limit=limit, offset=offset)

    def status(self, names: Iterable[str]) -> Sequence[JobStatus]:
        """The status of each job meant by `names` whose record is there."""
        return self.ledger.get_many(self.resolve(names))

    def watch(
        self, jobs: Sequence[str], *, on_wait: Callable[[str], object] | None = None, said: Iterable[str] = ()
    ) -> Iterator[JobStatus]:
        """Every status of the jobs as it changes, from what it is now until all of them are over.

        `on_wait` hears why jobs wait that no worker takes, each reason once, but for those in `said`. A job whose
        record is lost on the way is not followed any further. An outage of Redis of up to half a minute is waited out.
        Raises `JobNotFound`, `LedgerUnavailable`.
        """
        kept = cache(self._names_kept)  # once: a bucket that is away must not hold up what is followed
        tells = (
            TellsOnce(lambda models: held_up(models, self.ledger.workers(), kept), on_wait, said) if on_wait else None
        )
        return watch(self.ledger, jobs, tells)

    def held_up(self, models: Iterable[str]) -> dict[str, str]:
        """Why jobs of models wait that no worker takes, by model: nobody serves it, or whoever does takes none now."""
        return held_up(models, self.ledger.workers(), self._names_kept)

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
            await_answer(job, self.watch([job], on_wait=on_warning, said=submission.warnings))
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

    def kept_models(self) -> Sequence[StoredModel]:
        """Every model that the farm keeps, by name, but for manifests that are damaged.

        Raises `WrongBucket`, `LedgerUnavailable`, `StorageError`.
        """
        self.check_bucket(only_to_read=True)
        return [kept for kept in MODELS.everything(self.storage) if isinstance(kept, StoredModel)]

    def loras(self) -> Sequence[StoredLora]:
        """Every LoRA that the farm keeps, by name, but for manifests that are damaged.

        Raises `WrongBucket`, `LedgerUnavailable`, `StorageError`.
        """
        self.check_bucket(only_to_read=True)
        return [kept for kept in LORAS.everything(self.storage) if isinstance(kept, StoredLora)]

    def losses(self) -> Sequence[LossDeclaration]:
        """The built-in losses and those that live workers announce."""
        return known_losses(self.ledger.workers())
