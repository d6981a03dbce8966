"""The ledger: the truth about every job, in Redis. Whatever is written is one Lua operation of `ledger.lua`.

{prefix}:job:<id>          hash: the job's record
{prefix}:jobs              sorted set: every job by submission time
{prefix}:batch:<id>        sorted set: a batch's jobs by index;  {prefix}:batches: batches by time
{prefix}:state:<state>     sorted set: jobs by the time they entered the state
{prefix}:waiting:<model>   sorted set: queued jobs by the time their message was last published
{prefix}:turn:<model>      sorted set: queued jobs by whose turn it is: priority, then submission
{prefix}:leases            sorted set: running jobs by the time their lease lapses
{prefix}:unpromoted        sorted set: done jobs by their end, until their result is where the bucket alone tells of it
{prefix}:quarantine        hash: jobs whose record cannot be read, and why; `farm recover` makes them anew
{prefix}:grant:<token>     the job that a claim was granted in place of another, lapsing by itself
{prefix}:events            stream: what `farm watch` follows;  {prefix}:control: cancellations for workers
{prefix}:reaped            hash: when a reaper last came by, and from when on reaping is fair
{prefix}:bucket            hash: the name and the id of the bucket that this ledger belongs to (`farm/client/tie.py`)
{prefix}:worker:<id>       a live worker's description, lapsing by itself
{prefix}:death:<worker>    how a worker's process came to its end, as it was found afterwards, lapsing after a month
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from farm import keys
from farm.errors import FarmError, JobNotFound, LedgerUnavailable, WrongBucket
from farm.jobs.spec import JobSpec
from farm.jobs.status import STATES, JobStatus, State, Waiting, WorkerInfo, damaged
from farm.ledger.records import (
    Attempt,
    Cancelled,
    Claim,
    Cursor,
    Event,
    NewJob,
    Reaped,
    Renewed,
    Restored,
    Suspect,
    Tie,
    Watched,
    as_record,
    attempt_of,
    new_token,
    read_cancellation,
    read_event,
    read_worker,
)
from farm.ledger.redis_errors import unavailable
from farm.ledger.timing import TIMING, Timing
from farm.settings import Settings

PREFIX = "farm"
MAX_DEATHS = 3
_CHUNK = 500
_OVERDUE_SECONDS = 60
_DEATH_TTL_MS = 30 * 24 * 3600 * 1000
_MAX_DEATH_CHARACTERS = 4_000


class Ledger:
    """The job records of one farm. Methods raise `LedgerUnavailable` when Redis cannot be used."""

    def __init__(self, settings: Settings, *, prefix: str = PREFIX, timing: Timing = TIMING) -> None:
        self.address = settings.redis_address
        self.redis: Any = redis.Redis.from_url(  # its types cannot tell decoded answers from bytes
            settings.redis_url,
            decode_responses=True,
            socket_timeout=30,
            socket_connect_timeout=5,
            socket_keepalive=True,
            health_check_interval=25,
            encoding_errors="replace",  # one record of stray bytes must not hide the others
            # Its default sleeps for up to ten seconds between two tries: too long for a lease that is to be renewed.
            retry=Retry(ExponentialBackoff(cap=1.0, base=0.1), retries=3),
        )
        self._prefix = prefix
        self._timing = timing
        self._script = self.redis.register_script(
            resources.files("farm.ledger").joinpath("ledger.lua").read_text(encoding="utf-8")
        )

    def close(self) -> None:
        self.redis.close()

    # Transitions

    def create(self, batch: str, jobs: Sequence[NewJob]) -> list[str]:
        """Record new jobs as queued. Known ids are left as they are. Returns the ids that are queued now."""
        return list(self.restore(batch, jobs).queued)

    def restore(self, batch: str, jobs: Sequence[NewJob], *, damaged: Collection[str] = ()) -> Restored:
        """Record jobs that are missing or only in part there; put the indexes of the others right.

        Records of the jobs in `damaged` are made anew, whatever they are.
        """
        restored = Restored()
        for chunk in _in_groups(jobs, _CHUNK):
            records = [as_record(batch, job) | {"damaged": job.id in damaged} for job in chunk]
            queued, anew, indexed = self._run("create", json.dumps(records))
            restored += Restored(frozenset(queued), int(anew), int(indexed))
        return restored

    def claim(
        self,
        job: str,
        worker: str,
        *,
        token: str | None = None,
        alone: bool = False,
        instead: Collection[str] = (),
        lease: float | None = None,
        deaths: int = MAX_DEATHS,
    ) -> Claim | None:
        """Take a queued job for `lease` seconds, or None if it is not queued (any more).

        Without `lease` it is the one of the ledger's timing. If the job is not to be had, the next that waits for one
        of the models in `instead` is taken, if there is one.

        A claim whose answer was lost can be sent again with its `token`, which is new for each claim.
        `alone` says that the worker has no other job. Raises `Suspect` for a job that only such a one may have: one
        whose lease lapsed `deaths` − 1 times.
        """
        others = json.dumps(sorted(instead)) if instead else "[]"
        kept = self._lease(lease)
        answer = self._run("claim", job, worker, token or new_token(), kept, deaths, int(alone), others)
        if answer[0] == "suspect":
            raise Suspect(job)
        if answer[0] != "claimed":
            return None
        taken, attempt, spec, priority, checkpoint = answer[1:]
        return Claim(taken, int(attempt), spec, int(priority), attempt_of(checkpoint))

    def checkpoint(self, claim: Claim, worker: str, step: int) -> bool:
        """Note that `step` steps of a running job are safe in the bucket. False if it is not held any more."""
        return bool(self._run("checkpoint", claim.job, worker, claim.attempt, step))

    def renew(self, worker: str, held: Iterable[tuple[str, int, int]], *, lease: float | None = None) -> Renewed:
        """Renew the leases on `held` (job, attempt, step) and record their steps."""
        answer = self._run("renew", worker, self._lease(lease), json.dumps(list(held)))
        lost, previewed = (frozenset((job, int(n)) for job, n in _in_groups(told, 2)) for told in answer)
        return Renewed(lost, previewed)

    def subscribe_previews(self, jobs: Sequence[str], *, seconds: float) -> list[str]:
        """For so long previews are wanted of those of the jobs that are not over. Returns the running ones.

        Their workers hear of it as they renew.
        """
        return list(self._run("subscribe_previews", json.dumps(list(jobs)), _milliseconds(seconds)))

    def finish(self, claim: Claim, worker: str, state: State, fields: dict[str, str]) -> bool:
        """End a running job as `done` or `failed`. False if another holds it by now, or it was cancelled."""
        pairs = [text for pair in fields.items() for text in pair]
        answer = self._run("finish", claim.job, worker, claim.attempt, state, *pairs)
        return bool(answer[1])

    def promoted(self, job: str) -> None:
        """Note that a done job's own `result.json` has been written."""
        self._run("promoted", job)

    def unpromoted(self, *, older_than: float, limit: int = 100) -> dict[str, str]:
        """Jobs done over `older_than` seconds ago whose worker has not come to write that file: their results' keys.

        Each is named again only after as long.
        """
        found = self._run("unpromoted", _milliseconds(older_than), limit)
        return dict(zip(found[::2], found[1::2], strict=True))

    def release(self, claim: Claim, worker: str) -> bool:
        """Hand a running job back to the queue, with no blame. False if it was not held any more."""
        return bool(self._run("release", claim.job, worker, claim.attempt))

    def reap(self, *, limit: int = 100, deaths: int = MAX_DEATHS, window: float = 0.0) -> list[Reaped]:
        """Requeue jobs whose lease lapsed; fail those that outlived `deaths` workers.

        With `window`, call it more often than that (in seconds): after a silence of two thirds of it, which may have
        been an outage of Redis, nothing is reaped for `window`. `limit` 0 only says that somebody watches.
        """
        reaped = self._run("reap", limit, deaths, _milliseconds(window))
        return [Reaped(job, model, int(priority), state) for job, model, priority, state in _in_groups(reaped, 4)]

    def cancel(self, job: str) -> Cancelled:
        """Cancel a queued or running job. Raises `JobNotFound`, `LedgerUnavailable` if its record is damaged."""
        (told,) = self._cancel([job])
        self._previous(job, told[1])
        return _cancelled(told)

    def cancel_many(self, jobs: Sequence[str]) -> dict[str, Cancelled]:
        """Cancel those of the jobs that are queued or running. What has no record, or a damaged one, is left out."""
        told = (one for chunk in _in_groups(jobs, _CHUNK) for one in self._cancel(chunk))
        return {one[0]: _cancelled(one) for one in told if one[1] in STATES}

    def _cancel(self, jobs: Sequence[str]) -> Iterable[Sequence[Any]]:
        return _in_groups(self._run("cancel", json.dumps(list(jobs))), 5)

    def first(self, state: State, *, limit: int = _CHUNK) -> tuple[list[str], int]:
        """The jobs that have been in a state for the longest, and how many there are (about, where indexes lie)."""
        jobs, number = self._run("first", state, limit)
        return list(jobs), int(number)

    def clear(self, model: str, queues: Sequence[str]) -> None:
        """Drop the messages of a model's `queues`, which are Redis lists, if no job waits for it."""
        self._run("clear", model, *queues)

    def retry(self, job: str) -> State:
        """Queue a failed or cancelled job again. Returns the state it was in. Raises `JobNotFound`."""
        return self._previous(job, self._run("retry", job))

    def forget(self, jobs: Sequence[str]) -> list[str]:
        """Remove every trace of the jobs, but of those that are queued or running. Returns those that are gone now."""
        return [job for chunk in _in_groups(jobs, _CHUNK) for job in self._run("forget", json.dumps(list(chunk)))]

    def expired(self, states: Collection[State], *, older_than: float, limit: int = _CHUNK) -> list[str]:
        """Jobs that have been in one of the `states`, all of them final, for over `older_than` seconds."""
        return list(self._run("expired", json.dumps(list(states)), _milliseconds(older_than), limit))

    def look_over(self, cursor: Cursor, *, number: int = 100) -> Cursor:
        """Look at the next `number` records: indexes are put right, and what cannot be read goes into quarantine.

        Returns where to go on; begin with `Cursor()`. It never ends.
        """
        with self._talking():
            scanned, found = self.redis.scan(cursor.scanned, match=self._key("job", "*"), count=number)
            indexed = self._zrange("jobs", cursor.rank, cursor.rank + number - 1)
        start = len(self._key("job", ""))
        jobs = dict.fromkeys([name[start:] for name in found] + indexed)
        self._run("look_over", json.dumps([job for job in jobs if keys.is_job_id(job)]))
        return Cursor(int(scanned), cursor.rank + len(indexed) if indexed else 0)

    def republish(self, model: str, *, older_than: float, but: Collection[str] = (), limit: int = 500) -> list[Waiting]:
        """Queued jobs of `model` whose message was published over `older_than` seconds ago; counted as published.

        Those in `but` have a message still, and are left out.
        """
        stale = self._run("republish", model, _milliseconds(older_than), limit, json.dumps(list(but)))
        return [Waiting(job, model, int(priority)) for job, priority in _in_groups(stale, 2)]

    # Reading

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
        for chunk in _in_groups(jobs, _CHUNK):
            with self._talking():
                pipeline = self.redis.pipeline(transaction=False)
                for job in chunk:
                    pipeline.hgetall(self._key("job", job))
                records = pipeline.execute(raise_on_error=False)
            for job, record in zip(chunk, records, strict=True):
                yield job, self._status(job, record)

    def _status(self, job: str, record: Any) -> JobStatus | FarmError:
        if isinstance(record, redis.ResponseError) and "WRONGTYPE" in str(record):
            return damaged(job, "it is no hash")
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

    def spec(self, job: str) -> JobSpec:
        """What the job renders. Raises `JobNotFound`."""
        with self._talking():
            text = self.redis.hget(self._key("job", job), "spec")
        if text is None:
            raise JobNotFound(f"there is no job {job}")
        return JobSpec.from_json(text)

    def page(self, *, state: State | None = None, limit: int = 50, offset: int = 0) -> list[JobStatus]:
        """The jobs of `newest` whose record can be read."""
        return self.get_many(self.newest(state=state, limit=limit, offset=offset))

    def newest(self, *, state: State | None = None, limit: int = 50, offset: int = 0) -> list[str]:
        """The ids of the newest jobs first, of one state or all: `limit` of them from `offset`."""
        with self._talking():
            index = self._key("state", state) if state else self._key("jobs")
            return list(self.redis.zrevrange(index, offset, offset + limit - 1))

    def batch(self, batch: str) -> list[str]:
        """The ids of a batch's jobs, by index; empty for an unknown batch."""
        return self._zrange(f"batch:{batch}", 0, -1)

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

    def models(self) -> list[str]:
        """Every model that jobs were queued for."""
        with self._talking():
            return sorted(self.redis.smembers(self._key("models")))

    def waiting(self, model: str) -> int:
        """How many jobs of a model are queued."""
        with self._talking():
            return int(self.redis.zcard(self._key("waiting", model)))

    # Events

    def now(self) -> str:
        """A cursor from which `events` tells what happens next."""
        with self._talking():
            last = self.redis.xrevrange(self._key("events"), count=1)
        return last[0][0] if last else "0-0"

    def events(self, cursor: str, *, wait: float = 1.0) -> list[Event]:
        """What happened after `cursor`, waiting up to `wait` seconds for something to happen."""
        return [read_event(*entry) for entry in self._read_stream("events", cursor, wait)]

    def cancellations(self, cursor: str, *, wait: float) -> tuple[str, set[Attempt]]:
        """The next cursor, and the attempts that were cancelled after `cursor`, waiting up to `wait` seconds."""
        entries = self._read_stream("control", cursor, wait)
        cancelled = {attempt for _, fields in entries if (attempt := read_cancellation(fields))}
        return (entries[-1][0] if entries else cursor), cancelled

    def control_cursor(self) -> str:
        """A cursor from which `cancellations` tells what is cancelled next."""
        with self._talking():
            last = self.redis.xrevrange(self._key("control"), count=1)
        return last[0][0] if last else "0-0"

    def _read_stream(self, name: str, cursor: str, wait: float) -> list[tuple[str, dict[str, str]]]:
        with self._talking():
            answer: Any = self.redis.xread({self._key(name): cursor}, count=2_000, block=max(1, _milliseconds(wait)))
        return [entry for _, entries in answer or () for entry in entries]

    # Workers

    def announce(self, worker: WorkerInfo) -> None:
        """Say that a worker lives; the record lapses unless that is said again in time."""
        kept = _milliseconds(self._timing.announced)
        self._run("note", "worker", worker.id, worker.model_dump_json(), kept)

    def depart(self, worker: str) -> None:
        """Say that a worker is gone."""
        self._run("depart", worker)

    def note_death(self, worker: str, how: str) -> None:
        """Record how a worker's process came to its end: what follows the worker's name in a sentence."""
        self._run("note", "death", worker, how[-_MAX_DEATH_CHARACTERS:], _DEATH_TTL_MS)

    def workers(self) -> list[WorkerInfo]:
        """The workers that live now, by id."""
        with self._talking():
            names = sorted(self.redis.scan_iter(self._key("worker", "*"), count=1_000))
            records = self.redis.mget(names) if names else []
        return [worker for record in records if record and (worker := read_worker(record))]

    def try_lock(self, name: str, holder: str, *, seconds: float) -> bool:
        """Hold a lapsing lock, so that one of many does a chore. True if `holder` has it now."""
        return bool(self._run("lock", name, holder, _milliseconds(seconds)))

    def watched(self) -> Watched:
        """Whether somebody looks for the jobs of the dead."""
        with self._talking():
            seconds, _ = self.redis.time()
            last = self.redis.hget(self._key("reaped"), "last") or ""
            overdue = self.redis.zcount(self._key("leases"), "-inf", 1000 * (seconds - _OVERDUE_SECONDS))
        return Watched(seconds - int(last) / 1000 if last.isdecimal() else None, int(overdue))

    # The bucket

    def tie(self) -> Tie | None:
        """The bucket that this ledger belongs to, or None yet. Raises `WrongBucket` if its note of that is damaged."""
        try:
            with self._talking():
                name, id = self.redis.hmget(self._key("bucket"), "name", "id")
                known = name is not None or bool(self.redis.exists(self._key("bucket")))
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

    def set_tie(self, tie: Tie, *, anew: bool = False) -> Tie:
        """Tie this ledger to a bucket unless it belongs to one, or `anew`. Returns the one that it belongs to."""
        name, id = self._run("tie", tie.bucket, tie.id, int(anew))
        return Tie(name, id)

    # Plumbing

    def _lease(self, seconds: float | None) -> int:
        return _milliseconds(self._timing.lease if seconds is None else seconds)

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))

    def _run(self, operation: str, *arguments: str | int) -> Any:
        with self._talking():
            return self._script(keys=[self._prefix], args=[operation, *arguments])

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            raise unavailable(self.address, error) from error

    def _previous(self, job: str, state: Any) -> State:
        if state == "missing":
            raise JobNotFound(f"there is no job {job}", hint="'farm list' shows the jobs of this farm")
        if state == "damaged":
            raise damaged(job, "it is in quarantine")
        previous: State = state
        return previous

    def _batch_beginning(self, beginning: str) -> str:
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


def _in_groups(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _cancelled(told: Sequence[Any]) -> Cancelled:
    _, state, model, checkpoint, previewed = told
    return Cancelled(state, model, attempt_of(checkpoint), bool(previewed))
