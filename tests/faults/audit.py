"""What must be true of a farm after every fault, once all of its jobs are over.

every job that was submitted is done, failed with a reason, or cancelled
each that is done has its `result.json` and its objects, with the sizes and checksums that it names
each has one result: what the ledger names is what the job's own `result.json` holds; others have none
each attempt beyond the first followed a fault that can explain it
the ledger's indexes say what its records say, and nothing waits, or is leased, that is over
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import pairwise

from farm import keys
from farm.bucket.fetch import read_result
from farm.bucket.storage import Storage
from farm.client import FarmClient
from farm.errors import JobNotFound, StorageError
from farm.jobs.status import STATES, TERMINAL, JobStatus
from farm.ledger.connection import PREFIX
from farm.queue import KEY_PREFIX
from tests.faults.faults import Fault
from tests.faults.history import Happening, History
from worker.queue.messages import job_named_by

_PATIENCE = 60.0


@dataclass
class Audit:
    """What was found. `complaints` is empty if all is well; `lost` and `duplicated` count jobs."""

    jobs: int
    states: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    lost: int = 0
    duplicated: int = 0
    complaints: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        shown = "\n  ".join(self.complaints[:20])
        return f"{len(self.complaints)} complaints about {self.jobs} jobs:\n  {shown}"


def audit(client: FarmClient, submitted: Iterable[str], history: History, faults: Sequence[Fault]) -> Audit:
    """Look at everything, once."""
    jobs = list(dict.fromkeys(submitted))
    found = Audit(len(jobs))
    history.catch_up()
    stored = {stored.key for stored in client.storage.list("jobs/")}
    statuses = {status.id: status for status in _known(client, jobs, found)}
    for status in statuses.values():
        found.states[status.state] += 1
        found.attempts += status.attempt
        _is_over(status, found)
        _has_one_result(client.storage, stored, status, history.of(status.id), found)
        found.complaints += _unexplained(status, history.of(status.id), faults)
    found.complaints += _indexes(client, statuses)
    found.complaints += _messages(client, statuses)
    return found


def settled(client: FarmClient, submitted: Iterable[str], history: History, faults: Sequence[Fault]) -> Audit:
    """Look until there is no complaint, or for a minute: a worker may still be writing a result."""
    jobs, deadline = list(submitted), time.monotonic() + _PATIENCE
    while (found := audit(client, jobs, history, faults)).complaints and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def _known(client: FarmClient, jobs: Sequence[str], found: Audit) -> Iterator[JobStatus]:
    for job in jobs:
        try:
            yield client.ledger.get(job)
        except JobNotFound:
            found.lost += 1
            found.complaints.append(f"{job}: submitted, and not in the ledger")


def _is_over(status: JobStatus, found: Audit) -> None:
    if status.state not in TERMINAL:
        found.lost += 1
        found.complaints.append(f"{status.id}: is {status.state}")
    if status.state == "failed" and not (status.error and status.error.kind and status.error.message):
        found.complaints.append(f"{status.id}: failed without a reason")


def _has_one_result(
    storage: Storage, stored: Set[str], status: JobStatus, history: Sequence[Happening], found: Audit
) -> None:
    """The ledger, the job's own `result.json` and the winning attempt's must name the same objects, which exist."""
    if sum(happening.state == "done" and happening.why != "recovered" for happening in history) > 1:
        found.duplicated += 1
        found.complaints.append(f"{status.id}: was done more than once")
    promoted = keys.result(status.id) in stored
    if status.state != "done":
        if promoted or status.result:
            found.duplicated += 1
            found.complaints.append(f"{status.id}: is {status.state} and has a result")
        return
    won = keys.attempt_result(status.id, status.attempt)
    if status.result != won:
        found.complaints.append(f"{status.id}: attempt {status.attempt} won, the ledger names {status.result}")
        return
    if not promoted:
        found.complaints.append(f"{status.id}: done, and has no result.json")
        return
    try:
        result = read_result(storage, won)
        if read_result(storage, keys.result(status.id)) != result:
            found.duplicated += 1
            found.complaints.append(f"{status.id}: its result.json is not that of attempt {status.attempt}")
        if (result.job, result.attempt) != (status.id, status.attempt) or (
            result.spec.has_picture and "image.png" not in result.objects
        ):
            found.complaints.append(f"{status.id}: {won} is of another attempt, or has no image")
        for name, named in result.objects.items():
            if named.key != keys.attempt_object(status.id, status.attempt, name):
                found.complaints.append(f"{status.id}: {name} lies outside its attempt, in {named.key}")
            data = storage.get(named.key)
            if (len(data), hashlib.sha256(data).hexdigest()) != (named.size, named.sha256):
                found.complaints.append(f"{status.id}: {named.key} is not what its result says")
    except StorageError as error:
        found.complaints.append(f"{status.id}: {error.message}")


def _unexplained(status: JobStatus, history: Sequence[Happening], faults: Sequence[Fault]) -> Iterator[str]:
    """Each claim that another followed must have ended by a fault, or by being retried after its end."""
    claims = [happening for happening in history if happening.is_claim]
    if claims and claims[-1].attempt != status.attempt:
        yield f"{status.id}: is at attempt {status.attempt}, and was last claimed as attempt {claims[-1].attempt}"
    if not claims and status.state in ("done", "failed"):
        yield f"{status.id}: is {status.state}, and was never claimed"
    for one, other in pairwise(claims):
        between = [happening for happening in history if one.at <= happening.at <= other.at and happening.why]
        if any(happening.why == "retried" for happening in between):
            continue
        requeued = between[0].at if between else other.at
        assert one.worker is not None
        if not any(fault.explains(worker=one.worker, claimed=one.at, requeued=requeued) for fault in faults):
            why = between[0].why if between else "nothing that was told"
            yield f"{status.id}: attempt {one.attempt} by {one.worker} ended by no fault ({why})"


def _indexes(client: FarmClient, statuses: dict[str, JobStatus]) -> Iterator[str]:
    redis = client.ledger.redis
    for state in STATES:
        listed = set(redis.zrange(f"{PREFIX}:state:{state}", 0, -1)) & statuses.keys()
        recorded = {status.id for status in statuses.values() if status.state == state}
        if listed != recorded:
            yield f"the index of the {state} differs from the records by {sorted(listed ^ recorded)[:5]}"
    missing = statuses.keys() - set(redis.zrange(f"{PREFIX}:jobs", 0, -1))
    if missing:
        yield f"the index of all jobs lacks {sorted(missing)[:5]}"
    for index in ("leases", *(f"waiting:{model}" for model in client.ledger.models())):
        left = statuses.keys() & set(redis.zrange(f"{PREFIX}:{index}", 0, -1))
        if left:
            yield f"{index} still names {sorted(left)[:5]}"


def _messages(client: FarmClient, statuses: dict[str, JobStatus]) -> Iterator[str]:
    """Spare messages may be left, for they do no harm: but not one of a job that still waits for its end."""
    redis = client.ledger.redis
    for queue in redis.scan_iter(f"{KEY_PREFIX}*", _type="list"):
        for message in redis.lrange(queue, 0, -1):
            job = job_named_by(json.loads(message))
            if job in statuses and statuses[job].state not in TERMINAL:
                yield f"{queue} holds a message of {job}, which is {statuses[job].state}"
