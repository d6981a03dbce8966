"""The ledger: the truth about every job, in Redis. Whatever is written is one Lua operation of `lua/`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from farm import keys
from farm.errors import JobNotFound
from farm.jobs.status import STATES, State, Waiting, WorkerInfo, damaged
from farm.ledger.connection import ANSWERS_WITHIN, CHUNK, PREFIX, in_groups, milliseconds
from farm.ledger.reading import Reading
from farm.ledger.records import (
    Cancelled,
    Claim,
    Cursor,
    Demand,
    NewJob,
    Prioritised,
    Progress,
    Reaped,
    Renewed,
    Restored,
    Suspect,
    Tie,
    Wish,
    as_record,
    attempt_of,
    new_token,
    read_wish,
)
from farm.ledger.timing import TIMING, Timing
from farm.settings import Settings

MAX_DEATHS = 3
_DRAINED_TTL_MS = 7 * 24 * 3600 * 1000
_DEATH_TTL_MS = 30 * 24 * 3600 * 1000
_MAX_DEATH_CHARACTERS = 4_000


class Ledger(Reading):
    """The job records of one farm, whose leases are as long as `timing` says.

    Methods raise `LedgerUnavailable` when Redis cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        prefix: str = PREFIX,
        timing: Timing = TIMING,
        answers_within: float = ANSWERS_WITHIN,
    ) -> None:
        super().__init__(settings, prefix=prefix, answers_within=answers_within)
        self._timing = timing

    # Transitions

    def create(self, batch: str, jobs: Sequence[NewJob]) -> list[str]:
        """Record new jobs as queued. Known ids are left as they are. Returns the ids that are queued now."""
        return list(self.restore(batch, jobs).queued)

    def restore(self, batch: str, jobs: Sequence[NewJob], *, damaged: Collection[str] = ()) -> Restored:
        """Record jobs that are missing or incomplete; put the indexes of the others right.

        Records of the jobs in `damaged` are rebuilt, whatever they are.
        """
        restored = Restored()
        for chunk in in_groups(jobs, CHUNK):
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

        Without `lease` it is the one of the ledger's timing. With models in `instead` that is the job whose turn it is
        among those of the same model, or a more urgent one of another of them: `job` says only that there is work.
        The claim names the job that is `owed` a message then, if one is: it is to be published again.

        A claim whose answer was lost can be sent again with its `token`, which is new for each claim.
        `alone` says that the worker has no other job. Raises `Suspect` for a job that only such a worker may have: one
        whose lease lapsed `deaths` − 1 times.
        """
        others = json.dumps(sorted(instead)) if instead else "[]"
        answer = self._run("claim", job, worker, token or new_token(), self._lease(lease), deaths, int(alone), others)
        if answer[0] == "suspect":
            raise Suspect(job)
        if answer[0] != "claimed":
            return None
        taken, attempt, spec, priority, checkpoint, waited, owed = answer[1:]
        waited = int(waited) / 1000
        return Claim(taken, int(attempt), spec, int(priority), attempt_of(checkpoint), waited, owed or None)

    def checkpoint(self, claim: Claim, worker: str, step: int) -> bool:
        """Note that `step` steps of a running job are safe in the bucket. False if it is not held any more."""
        return bool(self._run("checkpoint", claim.job, worker, claim.attempt, step))

    def renew(self, worker: str, held: Iterable[Progress], *, lease: float | None = None) -> Renewed:
        """Renew the leases on `held` and record how far they have got."""
        answer = self._run("renew", worker, self._lease(lease), json.dumps(list(held)))
        lost, previewed = (frozenset((job, int(n)) for job, n in in_groups(told, 2)) for told in answer)
        return Renewed(lost, previewed)

    def subscribe_previews(self, jobs: Sequence[str], *, seconds: float) -> list[str]:
        """Ask for previews of those of the jobs that are not over, for this long. Returns the running ones.

        Their workers hear of it as they renew.
        """
        return list(self._run("subscribe_previews", json.dumps(list(jobs)), milliseconds(seconds)))

    def finish(self, claim: Claim, worker: str, state: State, fields: dict[str, str]) -> bool:
        """End a running job as `done` or `failed`. False if another holds it by now, or it was cancelled."""
        pairs = [text for pair in fields.items() for text in pair]
        answer = self._run("finish", claim.job, worker, claim.attempt, state, *pairs)
        return bool(answer[1])

    def promoted(self, job: str) -> None:
        """Note that a done job's own `result.json` has been written."""
        self._run("promoted", job)

    def unpromoted(self, *, older_than: float, limit: int = 100) -> dict[str, str]:
        """Jobs done over `older_than` seconds ago whose worker has not written that file yet: their results' keys.

        Each is named again only after as long again.
        """
        found = self._run("unpromoted", milliseconds(older_than), limit)
        return dict(zip(found[::2], found[1::2], strict=True))

    def release(self, claim: Claim, worker: str) -> bool:
        """Hand a running job back to the queue, with no blame. False if it was not held any more."""
        return bool(self._run("release", claim.job, worker, claim.attempt))

    def reap(self, *, limit: int = 100, deaths: int = MAX_DEATHS, window: float = 0.0) -> list[Reaped]:
        """Requeue jobs whose lease lapsed; fail those whose lease lapsed `deaths` times.

        With `window`, call it more often than that (in seconds): after a silence of two thirds of it, which may have
        been an outage of Redis, nothing is reaped for `window`. `limit` 0 only says that somebody watches.
        """
        reaped = self._run("reap", limit, deaths, milliseconds(window))
        return [Reaped(job, model, int(priority), state) for job, model, priority, state in in_groups(reaped, 4)]

    def cancel(self, job: str) -> Cancelled:
        """Cancel a queued or running job. Raises `JobNotFound`, `LedgerUnavailable` if its record is damaged."""
        (told,) = self._cancel([job])
        self._previous(job, told[1])
        return _cancelled(told)

    def cancel_many(self, jobs: Sequence[str]) -> dict[str, Cancelled]:
        """Cancel those of the jobs that are queued or running. What has no record, or a damaged one, is left out."""
        told = (one for chunk in in_groups(jobs, CHUNK) for one in self._cancel(chunk))
        return {one[0]: _cancelled(one) for one in told if one[1] in STATES}

    def _cancel(self, jobs: Sequence[str]) -> Iterable[Sequence[Any]]:
        return in_groups(self._run("cancel", json.dumps(list(jobs))), 5)

    def prioritise(self, wanted: Mapping[str, int]) -> dict[str, Prioritised]:
        """Give those of the jobs that are queued the priorities, from 0 to 9, that are `wanted`.

        What has no record, or a damaged one, is left out of the answer.
        """
        told: dict[str, Prioritised] = {}
        for chunk in in_groups([*wanted.items()], CHUNK):
            for job, state, before, priority in in_groups(self._run("prioritise", json.dumps(chunk)), 4):
                if state in STATES:
                    told[job] = Prioritised(state, int(before), int(priority))
        return told

    def first(self, state: State, *, limit: int = CHUNK) -> tuple[list[str], int]:
        """The jobs that have been in a state for the longest, and how many there are (about, if an index is wrong)."""
        jobs, number = self._run("first", state, limit)
        return list(jobs), int(number)

    def clear(self, model: str, queues: Sequence[str]) -> None:
        """Drop the messages of a model's `queues`, which are Redis lists, if no job waits for it."""
        self._run("clear", model, *queues)

    def retry(self, job: str) -> State:
        """Queue a failed or cancelled job again. Returns the state it was in. Raises `JobNotFound`."""
        return self._previous(job, self._run("retry", job))

    def forget(self, jobs: Sequence[str]) -> list[str]:
        """Remove every trace of the jobs, except queued and running ones. Returns those that are gone now."""
        return [job for chunk in in_groups(jobs, CHUNK) for job in self._run("forget", json.dumps(list(chunk)))]

    def tell_gone(self, jobs: Sequence[str]) -> None:
        """Tell those who follow that what these jobs made is not to be found any more."""
        for chunk in in_groups(jobs, CHUNK):
            self._run("tell_gone", json.dumps(list(chunk)))

    def expired(self, states: Collection[State], *, older_than: float, limit: int = CHUNK) -> list[str]:
        """Jobs that have been in one of the `states`, all of them final, for over `older_than` seconds."""
        return list(self._run("expired", json.dumps(list(states)), milliseconds(older_than), limit))

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

        Those in `but` still have a message, and are left out.
        """
        stale = self._run("republish", model, milliseconds(older_than), limit, json.dumps(list(but)))
        return [Waiting(job, model, int(priority)) for job, priority in in_groups(stale, 2)]

    def demand(self, models: Collection[str]) -> dict[str, Demand]:
        """What waits for those of the models that jobs wait for."""
        told = self._run("demand", json.dumps(sorted(models))) if models else ()
        return {
            name: Demand(int(waiting), int(oldest) / 1000, int(priorities) / int(waiting))
            for name, waiting, oldest, priorities in in_groups(told, 4)
        }

    # Workers

    def announce(self, worker: WorkerInfo) -> Wish | None:
        """Say that a worker lives; the record lapses unless that is said again in time.

        Returns what an operator wishes of the workers of its name: None if they are to take jobs.
        """
        kept = milliseconds(self._timing.announced)
        described = worker.model_dump_json()
        return read_wish(self._run("announce", worker.id, worker.name, described, kept, _DRAINED_TTL_MS))

    def drain(self, names: Collection[str], wish: Wish) -> None:
        """Let the workers of these names take no more jobs until they are told to go on; they hear of it at once.

        That is kept while any of that name lives, and for a week after that.
        """
        self._run("drain", json.dumps(sorted(names)), wish, _DRAINED_TTL_MS)

    def resume(self, names: Collection[str]) -> list[str]:
        """Let the workers of these names take jobs again. Returns the names of those that were drained."""
        return list(self._run("resume", json.dumps(sorted(names))))

    def depart(self, worker: str) -> None:
        """Say that a worker is gone."""
        self._run("depart", worker)

    def note_death(self, worker: str, how: str) -> None:
        """Record how a worker's process ended: what follows the worker's name in a sentence."""
        self._run("note", "death", worker, how[-_MAX_DEATH_CHARACTERS:], _DEATH_TTL_MS)

    def try_lock(self, name: str, holder: str, *, seconds: float) -> bool:
        """Hold a lapsing lock, so that one of many does a chore. True if `holder` has it now."""
        return bool(self._run("lock", name, holder, milliseconds(seconds)))

    def once(self, name: str, value: str, *, seconds: float) -> str:
        """Keep `value` under `name` for so long, unless there is one already. Returns the one that is there."""
        return str(self._run("once", name, value, milliseconds(seconds)))

    def set_tie(self, tie: Tie, *, anew: bool = False) -> Tie:
        """Tie this ledger to a bucket unless it belongs to one, or `anew`. Returns the one that it belongs to."""
        name, id = self._run("tie", tie.bucket, tie.id, int(anew))
        return Tie(name, id)

    def _lease(self, seconds: float | None) -> int:
        return milliseconds(self._timing.lease if seconds is None else seconds)

    def _previous(self, job: str, state: Any) -> State:
        if state == "missing":
            raise JobNotFound(f"there is no job {job}", hint="'farm list' shows the jobs of this farm")
        if state == "damaged":
            raise damaged(job, "it is in quarantine")
        previous: State = state
        return previous


def _cancelled(told: Sequence[Any]) -> Cancelled:
    _, state, model, checkpoint, previewed = told
    return Cancelled(state, model, attempt_of(checkpoint), bool(previewed))
