"""Reading the ledger: jobs, batches and counts. Nothing here writes."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import redis

from farm import keys
from farm.errors import FarmError, InvalidInput, JobNotFound, LedgerUnavailable, WrongBucket
from farm.jobs.faults import quoted
from farm.jobs.spec import JobSpec
from farm.jobs.status import STATES, JobStatus, State, WorkerInfo, damaged
from farm.ledger.connection import CHUNK, in_groups
from farm.ledger.records import (
    Drained,
    Lapse,
    Position,
    Tie,
    Watched,
    read_drained,
    read_lapses,
    read_moments,
    read_worker,
)
from farm.ledger.redis_errors import unavailable
from farm.ledger.streams import Streams

_OVERDUE_SECONDS = 60


class Reading(Streams):
    """What a ledger tells."""

    # Jobs

    def get(self, job: str) -> JobStatus:
        """One job. Raises `JobNotFound`, `LedgerUnavailable` if its record is damaged."""
        ((_, status),) = self._read([job])
        if isinstance(status, FarmError):
            raise status
        return status

    def get_many(self, jobs: Sequence[str]) -> list[JobStatus]:
        """Those of the jobs whose record is there and can be read, in the order asked for."""
        return [status for _, status in self._read(jobs) if isinstance(status, JobStatus)]

    def damaged(self, jobs: Sequence[str]) -> set[str]:
        """Those of the jobs that have a record which cannot be read."""
        return {job for job, status in self._read(jobs) if isinstance(status, LedgerUnavailable)}

    def _read(self, jobs: Sequence[str]) -> Iterator[tuple[str, JobStatus | FarmError]]:
        """Each job with its status, or what is wrong with it."""
        for chunk in in_groups(jobs, CHUNK):
            with self._talking():
                pipeline = self.redis.pipeline(transaction=False)
                for job in chunk:
                    pipeline.hgetall(self._key("job", job))
                records = pipeline.execute(raise_on_error=False)
            for job, record in zip(chunk, records, strict=True):
                yield job, self._status(job, record)

    def _status(self, job: str, record: Any) -> JobStatus | FarmError:
        if isinstance(record, redis.ResponseError) and "WRONGTYPE" in str(record):
            return damaged(job, "it is not a hash")
        if isinstance(record, Exception):
            raise unavailable(self.address, record) from record
        if not record:
            return JobNotFound(f"there is no job {job}", hint="'farm list' shows the jobs of this farm")
        try:
            return self._with_crash(JobStatus.from_record(job, record))
        except LedgerUnavailable as error:
            return error

    def _with_crash(self, status: JobStatus) -> JobStatus:
        """A job that brought its workers down, with how the last of them ended: known only after the verdict."""
        if status.error is None or status.error.kind != "poison":
            return status
        with self._talking():
            told = self.redis.get(self._key("death", status.worker or ""))
        if told is None:
            return status
        error = status.error.model_copy(update={"message": f"{status.error.message}; {status.worker} {told}"})
        return status.model_copy(update={"error": error})

    def lapsed(self, job: str) -> list[Lapse]:
        """The attempts at a job whose workers fell silent, since people queued it last; none of an unknown job."""
        with self._talking():
            noted, moments = self.redis.hmget(self._key("job", job), "lapses", "lapsed_at")
            lapses, at = read_lapses(noted or ""), read_moments(moments or "")
            told = self.redis.mget([self._key("death", worker) for worker, _ in lapses]) if lapses else []
        return [
            Lapse(worker, attempt, at.get(attempt), how) for (worker, attempt), how in zip(lapses, told, strict=True)
        ]

    def spec(self, job: str) -> JobSpec:
        """What the job renders. Raises `JobNotFound`."""
        with self._talking():
            text = self.redis.hget(self._key("job", job), "spec")
        if text is None:
            raise JobNotFound(f"there is no job {job}")
        return JobSpec.from_json(text)

    def specs(self, jobs: Sequence[str]) -> dict[str, JobSpec]:
        """What those of the jobs render whose record is there and can be read, by id."""
        found: dict[str, JobSpec] = {}
        for chunk in in_groups(jobs, CHUNK):
            with self._talking():
                pipeline = self.redis.pipeline(transaction=False)
                for job in chunk:
                    pipeline.hget(self._key("job", job), "spec")
                texts = pipeline.execute(raise_on_error=False)
            for job, text in zip(chunk, texts, strict=True):
                if isinstance(text, str):
                    with contextlib.suppress(InvalidInput):
                        found[job] = JobSpec.from_json(text)
        return found

    def checkpoint_of(self, job: str) -> tuple[int, int] | None:
        """The attempt that left a checkpoint to go on from, and how many of its steps are safe; None without one."""
        with self._talking():
            told = self.redis.hget(self._key("job", job), "checkpoint")
        attempt, _, step = (told or "").partition(":")
        return (int(attempt), int(step)) if attempt.isdecimal() and step.isdecimal() else None

    def page(self, *, state: State | None = None, limit: int = 50, offset: int = 0) -> list[JobStatus]:
        """The jobs of `newest` whose record can be read."""
        return self.get_many(self.newest(state=state, limit=limit, offset=offset))

    def newest(self, *, state: State | None = None, limit: int = 50, offset: int = 0) -> list[str]:
        """The ids of the newest jobs first, of one state or all: `limit` of them from `offset`, both 0 or more."""
        if limit < 1:  # Redis would count from the end
            return []
        with self._talking():
            index = self._key("state", state) if state else self._key("jobs")
            return list(self.redis.zrevrange(index, offset, offset + limit - 1))

    def after(self, position: Position | None, *, state: State | None, limit: int) -> tuple[list[str], Position | None]:
        """The next `limit` ids of `newest` after a position (None: from the first), and the position to go on from.

        That is None after the last. Jobs that come, go or change meanwhile shift nothing.
        """
        index = self._key("state", state) if state else self._key("jobs")
        newer = None if position is None else f"({position.score}"
        found: list[tuple[int, str]] = []
        told = 0
        while len(found) <= limit:  # many jobs can be of one millisecond
            entries = self._older(index, newer, told, limit + 1)
            places = [(int(score), job) for job, score in entries]
            found += [place for place in places if position is None or place < (position.score, position.job)]
            told += len(entries)
            if len(entries) <= limit:
                break
        jobs = [job for _, job in found[:limit]]
        return jobs, Position(jobs[-1], found[limit - 1][0]) if len(found) > limit else None

    def _older(self, index: str, newer: str | None, offset: int, number: int) -> Sequence[tuple[str, float]]:
        """Entries of an index in its order, without those whose score is within `newer`.

        Without commands that only Redis 6.2 has, or that those who read have no right to.
        """
        while True:
            with self._talking():
                skipped = self.redis.zcount(index, newer, "+inf") if newer else 0
                start = skipped + offset
                pipeline = self.redis.pipeline(transaction=False)
                pipeline.zrevrange(index, start, start + number - 1, withscores=True)
                pipeline.zcount(index, newer or "+inf", "+inf")
                entries, now = pipeline.execute()
            if newer is None or now >= skipped:  # else some have gone, and others have taken their places
                found: Sequence[tuple[str, float]] = entries
                return found

    def batch(self, batch: str) -> list[str]:
        """The ids of a batch's jobs, by index; empty for an unknown batch."""
        return self._zrange(f"batch:{batch}", 0, -1)

    def sizes(self, batches: Collection[str]) -> dict[str, int]:
        """How many jobs each batch has; 0 for an unknown one."""
        with self._talking():
            pipeline = self.redis.pipeline(transaction=False)
            for batch in batches:
                pipeline.zcard(self._key("batch", batch))
            return dict(zip(batches, pipeline.execute(), strict=True))

    def quarantined(self) -> dict[str, str]:
        """Jobs whose record cannot be read, and why."""
        with self._talking():
            return dict(self.redis.hgetall(self._key("quarantine")))

    def _zrange(self, name: str, start: int, stop: int) -> list[str]:
        with self._talking():
            return list(self.redis.zrange(self._key(name), start, stop))

    def resolve(self, name: str) -> list[str]:
        """The job ids that a job id, a batch id or a unique beginning of one means. Raises `JobNotFound`."""
        if keys.is_job_id(name):
            return [self.get(name).id]
        batch = name if keys.is_batch_id(name) else self._batch_beginning(name)
        jobs = self.batch(batch)
        if not jobs:
            raise JobNotFound(f"there is no batch {batch}", hint="'farm list' shows the jobs of this farm")
        return jobs

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        with self._talking():
            pipeline = self.redis.pipeline(transaction=False)
            for state in STATES:
                pipeline.zcard(self._key("state", state))
            return dict(zip(STATES, pipeline.execute(), strict=True))

    def time(self) -> datetime:
        """What time it is by the ledger's clock, which is Redis' own."""
        with self._talking():
            seconds, microseconds = self.redis.time()
        return datetime.fromtimestamp(seconds + microseconds / 1e6, tz=UTC)

    # Workers and the bucket

    def workers(self) -> list[WorkerInfo]:
        """The workers that live now, by id."""
        with self._talking():
            names = sorted(self.redis.scan_iter(self._key("worker", "*"), count=1_000))
            records = self.redis.mget(names) if names else []
        return [worker for record in records if record and (worker := read_worker(record))]

    def drained(self) -> list[Drained]:
        """The workers that are to take no more jobs, by name; those that do not live now as well."""
        with self._talking():
            noted = self.redis.hgetall(self._key("drained"))
        now = self.time() if noted else datetime.now(UTC)
        found = (read_drained(name, text, now) for name, text in sorted(noted.items()))
        return [drained for drained in found if drained]

    def watched(self) -> Watched:
        """Whether anybody looks for the jobs of dead workers."""
        with self._talking():
            seconds, _ = self.redis.time()
            last = self.redis.hget(self._key("reaped"), "last") or ""
            overdue = self.redis.zcount(self._key("leases"), "-inf", 1000 * (seconds - _OVERDUE_SECONDS))
        return Watched(seconds - int(last) / 1000 if last.isdecimal() else None, int(overdue))

    def tie(self) -> Tie | None:
        """The bucket that this ledger belongs to, or None yet. Raises `WrongBucket` if its note of that is damaged."""
        try:
            with self._talking():
                name, id = self.redis.hmget(self._key("bucket"), "name", "id")
                known = name is not None or bool(self.redis.exists(self._key("bucket")))
                if known and name is None:  # somebody has tied it between the two questions, or it is damaged
                    name, id = self.redis.hmget(self._key("bucket"), "name", "id")
        except LedgerUnavailable as error:
            if "WRONGTYPE" not in str(error):
                raise
            name, id, known = None, None, True
        if known and not (name and id):
            raise WrongBucket(
                f"the ledger at {self.address} has a damaged note of the bucket that it belongs to",
                hint="make sure that FARM_S3_BUCKET is right, then: 'farm recover --adopt-bucket'",
            )
        return Tie(name, id) if known else None

    # Names

    def _batch_beginning(self, beginning: str) -> str:
        if not beginning.isalnum():
            meant = keys.id_in(beginning)
            hint = f"did you mean '{meant}'?" if meant else "'farm list' shows them"
            raise JobNotFound(f"{quoted(beginning)} is no id of a job or a batch, nor the beginning of one", hint=hint)
        with self._talking():
            found = [
                batch for batch in self.redis.zrevrange(self._key("batches"), 0, -1) if batch.startswith(beginning)
            ]
        if len(beginning) < 4:
            raise JobNotFound(f"{beginning!r} is too short to name a batch", hint="give at least four characters")
        if not found:
            raise JobNotFound(f"no job or batch is called {beginning!r}", hint="'farm list' shows them")
        if len(found) > 1:
            raise JobNotFound(f"{beginning!r} could be {len(found)} batches", hint=f"{found[0]}, {found[1]}, …")
        return str(found[0])
