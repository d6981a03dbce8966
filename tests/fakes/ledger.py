"""A ledger in memory, with the transitions of `lua/`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from farm.errors import JobNotFound, LedgerUnavailable
from farm.jobs.spec import JobSpec
from farm.jobs.status import STATES, TERMINAL, JobStatus, State, Waiting, WorkerInfo
from farm.ledger.ledger import MAX_DEATHS, Ledger
from farm.ledger.records import (
    Attempt,
    Cancelled,
    Claim,
    Demand,
    Drained,
    Event,
    NewJob,
    Orders,
    Prioritised,
    Progress,
    Reaped,
    Renewed,
    Restored,
    Suspect,
    Wish,
    as_record,
    new_token,
)
from farm.ledger.timing import TIMING, Timing
from tests.fakes.outages import Outage


@dataclass
class _Record:
    """A job's record: the fields of its hash, and what Redis keeps in indexes."""

    id: str
    new: NewJob
    fields: dict[str, str]
    entered: int
    deaths: int = 0
    lapses: list[str] = field(default_factory=list)
    token: str = ""
    checkpoint: tuple[int, int] | None = None
    lease: float = 0.0
    published: float = 0.0
    previews_until: float | None = None

    @property
    def state(self) -> State:
        return next(state for state in STATES if state == self.fields["state"])

    @property
    def attempt(self) -> int:
        return int(self.fields["attempt"])

    @property
    def model(self) -> str:
        return self.new.spec.model

    @property
    def turn(self) -> tuple[int, str, str]:
        return 9 - self.new.priority, self.fields["submitted"], self.id

    def held(self, worker: str, attempt: int) -> bool:
        return self.state == "running" and (self.fields["worker"], self.attempt) == (worker, attempt)


class FakeLedger(Ledger):
    """Jobs in memory. It is away while its `outage` says so. What it does not know it has not got."""

    def __init__(self, timing: Timing = TIMING) -> None:
        self.address = "memory"
        self.outage = Outage(LedgerUnavailable)
        self._timing = timing
        self._lock = threading.RLock()
        self._records: dict[str, _Record] = {}
        self._batches: dict[str, list[str]] = {}
        self._grants: dict[str, str] = {}
        self._events: list[tuple[str, State, int | None]] = []
        self._orders: list[Attempt | str] = []
        self._unpromoted: dict[str, float] = {}
        self._workers: dict[str, tuple[WorkerInfo, float]] = {}
        self._drained: dict[str, Drained] = {}
        self._endings: dict[str, str] = {}
        self._locks: dict[str, tuple[str, float]] = {}
        self._entries = 0

    def close(self) -> None:
        pass

    # Transitions

    def create(self, batch: str, jobs: Sequence[NewJob]) -> list[str]:
        queued = self.restore(batch, jobs).queued
        return [new.id for new in jobs if new.id in queued]

    def restore(self, batch: str, jobs: Sequence[NewJob], *, damaged: Collection[str] = ()) -> Restored:
        assert not damaged, "no record in memory is"
        with self._doing("create"):
            for new in jobs:
                if new.id not in self._records:
                    self._record(batch, new)
            return Restored(frozenset(new.id for new in jobs if self._records[new.id].state == "queued"))

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
        token = token or new_token()
        with self._doing("claim"):
            record = self._records.get(self._grants.get(token, job))
            if record is not None and record.state == "running" and record.token == token:
                return self._granted(record, self._owed_by(record, job, instead, deaths))
            record = self._whose_turn(record, instead, deaths)
            if record is None:
                return None
            if record.id != job:
                self._grants[token] = record.id
            if record.deaths >= deaths - 1 and not alone:
                raise Suspect(record.id)
            record.token = token
            record.lease = time.time() + (self._timing.lease if lease is None else lease)
            record.fields |= {"attempt": str(record.attempt + 1), "error": "", "started": _now()}
            self._move(record, "running")
            record.fields["worker"] = worker
            return self._granted(record, self._owed_by(record, job, instead, deaths))

    def checkpoint(self, claim: Claim, worker: str, step: int) -> bool:
        with self._doing("checkpoint"):
            record = self._held(claim, worker)
            if record is not None:
                record.checkpoint = claim.attempt, step
            return record is not None

    def renew(self, worker: str, held: Iterable[Progress], *, lease: float | None = None) -> Renewed:
        lost, previewed = set(), set()
        with self._doing("renew"):
            for job, attempt, step, *losses in held:
                record = self._records.get(job)
                if record is None or not record.held(worker, attempt):
                    lost.add((job, attempt))
                    continue
                record.lease = time.time() + (self._timing.lease if lease is None else lease)
                if record.fields["step"] != str(step):
                    record.fields |= {"step": str(step), **({"losses": str(losses[0])} if losses else {})}
                    self._events.append((job, "running", step))
                if record.previews_until is not None and time.time() < record.previews_until:
                    previewed.add((job, attempt))
        return Renewed(frozenset(lost), frozenset(previewed))

    def subscribe_previews(self, jobs: Sequence[str], *, seconds: float) -> list[str]:
        with self._doing("subscribe"):
            records = [self._records[job] for job in jobs if job in self._records]
            for record in records:
                if record.state not in TERMINAL:
                    record.previews_until = time.time() + seconds
            return [record.id for record in records if record.state == "running"]

    def finish(self, claim: Claim, worker: str, state: State, fields: dict[str, str]) -> bool:
        with self._doing("finish"):
            record = self._held(claim, worker)
            if record is None:
                known = self._records.get(claim.job)
                told = (state, worker, str(claim.attempt))
                return known is not None and told == tuple(
                    known.fields[name] for name in ("state", "worker", "attempt")
                )
            if state == "done":
                record.fields["step"] = record.fields["steps"]
                self._unpromoted[record.id] = time.time()
            record.fields |= fields
            record.checkpoint = None
            self._move(record, state)
            return True

    def promoted(self, job: str) -> None:
        with self._doing("promoted"):
            self._unpromoted.pop(job, None)

    def unpromoted(self, *, older_than: float, limit: int = 100) -> dict[str, str]:
        with self._doing("unpromoted"):
            found = [job for job, since in self._unpromoted.items() if since <= time.time() - older_than][:limit]
            self._unpromoted |= dict.fromkeys(found, time.time())
            return {job: self._records[job].fields["result"] for job in found if "result" in self._records[job].fields}

    def release(self, claim: Claim, worker: str) -> bool:
        with self._doing("release"):
            record = self._held(claim, worker)
            if record is not None:
                self._move(record, "queued")
            return record is not None

    def reap(self, *, limit: int = 100, deaths: int = MAX_DEATHS, window: float = 0.0) -> list[Reaped]:
        assert not window, "nobody watches a ledger in memory"
        with self._doing("reap"):
            lapsed = [one for one in self._records.values() if one.state == "running" and one.lease <= time.time()]
            for record in lapsed[:limit]:
                self._lapse(record, deaths)
            return [Reaped(one.id, one.model, one.new.priority, one.state) for one in lapsed[:limit]]

    def cancel(self, job: str) -> Cancelled:
        with self._doing("cancel"):
            record = self._known(job)
            before, checkpoint = record.state, record.checkpoint
            if before not in TERMINAL:
                if before == "running":
                    self._orders.append((job, record.attempt))
                record.checkpoint = None
                self._move(record, "cancelled")
            had_preview = record.previews_until is not None
            return Cancelled(before, record.model, checkpoint[0] if checkpoint else None, had_preview)

    def prioritise(self, wanted: Mapping[str, int]) -> dict[str, Prioritised]:
        told = {}
        with self._doing("prioritise"):
            for record, priority in ((self._records[job], wanted[job]) for job in wanted if job in self._records):
                before = record.new.priority
                if record.state == "queued" and before != priority:
                    record.new = replace(record.new, priority=priority)
                    record.fields["priority"] = str(priority)
                    self._events.append((record.id, "queued", None))
                told[record.id] = Prioritised(record.state, before, record.new.priority)
        return told

    def retry(self, job: str) -> State:
        with self._doing("retry"):
            record = self._known(job)
            before = record.state
            if before in ("failed", "cancelled"):
                record.deaths, record.lapses = 0, []
                record.fields |= {"error": "", "finished": "", "warnings": ""}
                self._move(record, "queued")
            return before

    def republish(self, model: str, *, older_than: float, but: Collection[str] = (), limit: int = 500) -> list[Waiting]:
        with self._doing("republish"):
            waiting = [one for one in self._records.values() if one.state == "queued" and one.model == model]
            stale = [one for one in waiting if one.id not in but and one.published <= time.time() - older_than][:limit]
            for record in stale:
                record.published = time.time()
            return [Waiting(one.id, one.model, one.new.priority) for one in stale]

    # Reading

    def get(self, job: str) -> JobStatus:
        with self._doing("get"):
            return self._status(job, self._known(job))

    def get_many(self, jobs: Sequence[str]) -> list[JobStatus]:
        with self._doing("get"):
            return [self._status(job, self._records[job]) for job in jobs if job in self._records]

    def spec(self, job: str) -> JobSpec:
        with self._doing("get"):
            return self._known(job).new.spec

    def specs(self, jobs: Sequence[str]) -> dict[str, JobSpec]:
        with self._doing("get"):
            return {job: self._records[job].new.spec for job in jobs if job in self._records}

    def newest(self, *, state: State | None = None, limit: int = 50, offset: int = 0) -> list[str]:
        with self._doing("get"):
            found = [one for one in self._records.values() if state in (None, one.state)]
            found.sort(key=lambda one: one.entered if state else int(one.fields["submitted"]), reverse=True)
            return [one.id for one in found][offset : offset + limit]

    def batch(self, batch: str) -> list[str]:
        return sorted(self._batches.get(batch, ()))

    def sizes(self, batches: Collection[str]) -> dict[str, int]:
        with self._doing("get"):
            return {batch: len(self._batches.get(batch, ())) for batch in batches}

    def counts(self) -> dict[State, int]:
        with self._doing("get"):
            return {state: sum(one.state == state for one in self._records.values()) for state in STATES}

    def models(self) -> list[str]:
        with self._doing("get"):
            return sorted({one.model for one in self._records.values()})

    def waiting(self, model: str) -> int:
        with self._doing("get"):
            return sum(one.state == "queued" and one.model == model for one in self._records.values())

    def demand(self, models: Collection[str]) -> dict[str, Demand]:
        with self._doing("demand"):
            queued = [one for one in self._records.values() if one.state == "queued" and one.model in models]
            by_model: dict[str, list[_Record]] = {}
            for one in queued:
                by_model.setdefault(one.model, []).append(one)
            return {name: _demand(jobs) for name, jobs in by_model.items()}

    def urgent(self, models: Iterable[str], *, limit: int = 10) -> list[str]:
        with self._doing("get"):
            waiting = [one for one in self._records.values() if one.state == "queued" and one.new.priority == 9]
            waiting.sort(key=lambda one: one.turn)
            return [one.id for model in models for one in [w for w in waiting if w.model == model][:limit]]

    # Events

    def now(self) -> str:
        return str(len(self._events))

    def events(self, cursor: str, *, wait: float = 1.0) -> list[Event]:
        with self._doing("events"):
            told = list(enumerate(self._events, start=1))[int(cursor) :]
            return [Event(str(number), *event) for number, event in told]

    def control_cursor(self) -> str:
        with self._doing("events"):
            return str(len(self._orders))

    def orders(self, cursor: str, *, wait: float) -> Orders:
        with self._doing("events"):
            new = self._orders[int(cursor) :]
            told = frozenset(name for name in new if isinstance(name, str))
            cancelled = frozenset(attempt for attempt in new if not isinstance(attempt, str))
            return Orders(str(len(self._orders)), cancelled, told)

    # Workers

    def announce(self, worker: WorkerInfo) -> Wish | None:
        with self._doing("announce"):
            self._workers[worker.id] = worker, time.time() + self._timing.announced
            drained = self._drained.get(worker.name)
            return drained.wish if drained else None

    def drain(self, names: Collection[str], wish: Wish) -> None:
        with self._doing("drain"):
            for name in sorted(names):
                since = self._drained[name].since if name in self._drained else datetime.now(UTC)
                self._drained[name] = Drained(name, wish, since)
                self._orders.append(name)

    def resume(self, names: Collection[str]) -> list[str]:
        with self._doing("resume"):
            self._orders += sorted(names)
            return [name for name in sorted(names) if self._drained.pop(name, None)]

    def drained(self) -> list[Drained]:
        with self._doing("get"):
            return [drained for _, drained in sorted(self._drained.items())]

    def depart(self, worker: str) -> None:
        with self._doing("depart"):
            self._workers.pop(worker, None)

    def workers(self) -> list[WorkerInfo]:
        with self._doing("get"):
            return [info for _, (info, until) in sorted(self._workers.items()) if time.time() < until]

    def note_death(self, worker: str, how: str) -> None:
        with self._doing("note"):
            self._endings[worker] = how

    def try_lock(self, name: str, holder: str, *, seconds: float) -> bool:
        with self._doing("lock"):
            by, until = self._locks.get(name, (holder, 0.0))
            if by != holder and time.time() < until:
                return False
            self._locks[name] = holder, time.time() + seconds
            return True

    # Plumbing

    @contextmanager
    def _doing(self, call: str) -> Iterator[None]:
        with self._lock, self.outage.passed(call):
            yield

    def _known(self, job: str) -> _Record:
        if job not in self._records:
            raise JobNotFound(f"there is no job {job}", hint="'farm list' shows the jobs of this farm")
        return self._records[job]

    def _held(self, claim: Claim, worker: str) -> _Record | None:
        record = self._records.get(claim.job)
        return record if record is not None and record.held(worker, claim.attempt) else None

    def _record(self, batch: str, new: NewJob) -> None:
        told = {name: str(value) for name, value in as_record(batch, new).items()}
        made = _Record(new.id, new, {**told, "state": "", "step": "0", "submitted": _now()}, self._entries)
        if new.checkpoint is not None:
            made.checkpoint = new.checkpoint, 0
        self._records[new.id] = made
        self._batches.setdefault(batch, []).append(new.id)
        if new.result:
            made.fields |= {"step": told["steps"], "worker": ""}
        self._move(made, "done" if new.result else "queued")

    def _move(self, record: _Record, to: State) -> None:
        self._entries += 1
        record.entered = self._entries
        record.fields["state"] = to
        if to == "queued":
            step = record.checkpoint[1] if record.checkpoint else 0
            record.fields |= {"worker": "", "started": "", "step": str(step)}
            record.published = time.time()
        if to in TERMINAL:
            record.fields["finished"] = _now()
        self._events.append((record.id, to, None))

    def _lapse(self, record: _Record, deaths: int) -> None:
        record.deaths += 1
        record.lapses.append(f"{record.fields['worker']} (attempt {record.attempt})")
        if record.deaths < deaths:
            self._move(record, "queued")
            return
        told = f"its lease lapsed {record.deaths} times, on {', '.join(record.lapses)}"
        record.checkpoint = None
        message = f"it seems to bring its workers down: {told}"
        record.fields["error"] = json.dumps({"kind": "poison", "message": message})
        self._move(record, "failed")

    def _next_of(self, models: Collection[str], deaths: int) -> _Record | None:
        waiting = [one for one in self._records.values() if one.state == "queued" and one.model in models]
        return min((one for one in waiting if one.deaths < deaths - 1), key=lambda one: one.turn, default=None)

    def _brought_by(self, asked: _Record | None, models: Collection[str], deaths: int) -> _Record | None:
        if asked is None:
            return None
        waits = asked if asked.state == "queued" else None
        if asked.model not in models or (waits is not None and asked.deaths >= deaths - 1):
            return waits
        return self._next_of([asked.model], deaths) or waits

    def _whose_turn(self, asked: _Record | None, models: Collection[str], deaths: int) -> _Record | None:
        mine, first = self._brought_by(asked, models, deaths), self._next_of(models, deaths)
        if mine is not None and first is not None and first.new.priority > mine.new.priority:
            return first
        return mine or first

    def _owed_by(self, taken: _Record, asked: str, models: Collection[str], deaths: int) -> str | None:
        mine = self._brought_by(self._records.get(asked), models, deaths) if asked != taken.id else None
        return mine.id if mine and (mine.model != taken.model or mine.deaths >= deaths - 1) else None

    def _granted(self, record: _Record, owed: str | None) -> Claim:
        checkpoint = record.checkpoint[0] if record.checkpoint else None
        waited = (int(record.fields["started"]) - int(record.fields["submitted"])) / 1000
        spec, priority = record.fields["spec"], record.new.priority
        return Claim(record.id, record.attempt, spec, priority, checkpoint, waited, owed)

    def _status(self, job: str, record: Any) -> JobStatus:
        status = JobStatus.from_record(job, record.fields)
        ending = self._endings.get(status.worker or "")
        if status.error is None or status.error.kind != "poison" or ending is None:
            return status
        error = status.error.model_copy(update={"message": f"{status.error.message}; {status.worker} {ending}"})
        return status.model_copy(update={"error": error})

    def _batch_beginning(self, beginning: str) -> str:
        if len(beginning) < 4:
            raise JobNotFound(f"{beginning!r} is too short to name a batch")
        found = [batch for batch in self._batches if batch.startswith(beginning)]
        if len(found) != 1:
            raise JobNotFound(f"{beginning!r} could be {len(found)} batches")
        return found[0]


def _demand(jobs: Sequence[_Record]) -> Demand:
    first = min(int(one.fields["submitted"]) for one in jobs)
    return Demand(len(jobs), time.time() - first / 1000, sum(one.new.priority for one in jobs) / len(jobs))


def _now() -> str:
    return str(time.time_ns() // 1_000_000)
