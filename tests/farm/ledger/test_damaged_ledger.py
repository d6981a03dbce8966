"""Whatever is written into a ledger by others, or lost from it, the jobs that are whole end as they should."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from farm.errors import JobNotFound, LedgerRefused, LedgerUnavailable
from farm.jobs.status import STATES
from farm.ledger.ledger import Ledger
from farm.ledger.records import Cursor
from farm.ledger.timing import Timing
from farm.queue import Queue
from farm.settings import Settings
from tests.ledgers import BATCH, job
from tests.users import lesser
from worker.leases.reaper import Reaper
from worker.results.promote import Promoter

RUBBISH = ["", "x", "-1", "nan", "inf", "1e400", "9" * 40, "[]", "\x00", b"\xff\xfe"]
FIELDS = ["state", "batch", "model", "priority", "steps", "step", "attempt", "deaths", "submitted", "worker", "spec"]
FIELDS += [
    "prompt",
    "token",
    "checkpoint",
    "previews_until",
    "labels",
    "warnings",
    "error",
    "started",
    "finished",
    "result",
]
NEEDED = ["state", "batch", "model", "priority", "steps", "step", "attempt", "deaths", "submitted", "spec", "prompt"]


@pytest.fixture
def queue(servers: Settings, ledger: Ledger) -> Iterator[Queue]:
    ledger.redis.flushdb()
    made = Queue(servers)
    yield made
    made.close()


def record(ledger: Ledger, index: int = 0) -> str:
    return ledger._key("job", job(index).id)


def looked_over(ledger: Ledger) -> None:
    """Every record has been looked at, be there an index that names it or not."""
    cursor = Cursor()
    for _ in range(1 + ledger.redis.dbsize() // 100):
        cursor = ledger.look_over(cursor, number=500)


@pytest.mark.parametrize("command", ["hmget", "hget", "xadd", "zadd"])
def test_a_right_that_a_user_lacks_is_told_and_quarantines_nothing(
    ledger: Ledger, servers: Settings, command: str
) -> None:
    ledger.create(BATCH, [job()])
    with lesser(servers, ledger.redis, "~*", f"-{command}") as settings:
        theirs = Ledger(settings, prefix=ledger._prefix)
        with pytest.raises(
            LedgerRefused, match=rf"denies this user (\+{command}|what a farm needs) "
        ):  # before Redis 7.2
            theirs.claim(job().id, "w")
        theirs.close()

    assert ledger.quarantined() == {}


@pytest.mark.parametrize("name", NEEDED)
def test_a_record_without_a_field_that_is_read_is_quarantined_and_the_next_is_reaped(ledger: Ledger, name: str) -> None:
    ledger.create(BATCH, [job(0), job(1)])
    for index in range(2):
        assert ledger.claim(job(index).id, "dead", lease=-index)
    ledger.redis.hdel(record(ledger, 1), name)

    reaped = [one.job for one in ledger.reap()]
    looked_over(ledger)

    assert job(0).id in reaped
    assert list(ledger.quarantined()) == [job(1).id]
    assert ledger.redis.zrange(ledger._key("leases"), 0, -1) == []
    assert ledger.claim(job(0).id, "w") is not None


def test_a_damaged_record_is_no_outage_to_who_claims_it(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(0), job(1)])
    ledger.redis.hset(record(ledger), "attempt", "x")

    assert ledger.claim(job(0).id, "w") is None

    assert ledger.quarantined() == {job(0).id: "its attempt is not a number"}
    assert ledger.waiting("emoji") == 1
    with pytest.raises(LedgerUnavailable, match="damaged"):
        ledger.cancel(job(0).id)


@pytest.mark.parametrize("field", ["from", "last"])
@pytest.mark.parametrize("value", [None, "x", "nan", "99999999999999"])
def test_reaping_goes_on_whatever_is_written_where_reapers_note_that_they_came_by(
    ledger: Ledger, field: str, value: str | None
) -> None:
    ledger.create(BATCH, [job()])
    assert ledger.claim(job().id, "dead", lease=-1)
    grace = 0.02
    ledger.reap(window=grace)
    if value is None:
        ledger.redis.hdel(ledger._key("reaped"), field)
    else:
        ledger.redis.hset(ledger._key("reaped"), field, value)

    for _ in range(1000):
        if ledger.reap(window=grace):
            break

    assert ledger.get(job().id).state == "queued"


@pytest.mark.parametrize("strange", ["none", "another type", "rubbish"])
def test_a_strange_entry_among_the_uncrowned_hides_no_other(ledger: Ledger, queue: Queue, strange: str) -> None:
    ledger.create(BATCH, [job(0), job(1)])
    for index in range(2):
        claim = ledger.claim(job(index).id, "w")
        assert claim and ledger.finish(claim, "w", "done", {"result": f"jobs/{job(index).id}/1/result.json"})
    ledger.redis.delete(record(ledger))
    if strange == "another type":
        ledger.redis.set(record(ledger), "x")
    if strange == "rubbish":
        ledger.redis.zadd(ledger._key("unpromoted"), {b"\xff": 0, "": 1})

    assert list(ledger.unpromoted(older_than=-1)) == [job(1).id]
    assert list(ledger.unpromoted(older_than=60)) == [], "each is tried again only later"
    assert job(0).id in ledger.quarantined()


def test_cancelling_all_ends_where_an_index_disagrees_with_the_records(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(0), job(1), job(2)])
    ledger.redis.hset(record(ledger, 0), "state", "done")
    ledger.redis.delete(record(ledger, 1))

    jobs, number = ledger.first("queued")

    assert (jobs, number) == ([job(2).id], 1)
    assert ledger.counts()["done"] == 1
    assert list(ledger.quarantined()) == [job(1).id]


def test_reading_skips_what_is_gone_or_damaged(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(index) for index in range(5)])
    ledger.redis.delete(record(ledger, 0))
    ledger.redis.hset(record(ledger, 1), "labels", "{")
    ledger.redis.delete(record(ledger, 2))
    ledger.redis.set(record(ledger, 2), "x")
    ledger.redis.hset(record(ledger, 3), "prompt", b"an \xff otter")

    assert [status.id for status in ledger.page()] == [job(4).id, job(3).id]
    assert len(ledger.newest()) == 5
    assert ledger.damaged([job(index).id for index in range(5)]) == {job(1).id, job(2).id}
    with pytest.raises(JobNotFound):
        ledger.get(job(0).id)


def test_a_lock_that_would_never_lapse_is_none(ledger: Ledger) -> None:
    ledger.redis.set(ledger._key("lock", "reaper"), "stranger")
    assert ledger.try_lock("reaper", "w", seconds=60)
    assert not ledger.try_lock("reaper", "other", seconds=60)


def test_what_is_left_of_a_record_is_made_whole_and_what_left_an_index_comes_back(ledger: Ledger) -> None:
    """As after a crash that kept a checkpoint's own write and lost the rest, or after an eviction of indexes."""
    jobs = [job(index) for index in range(5)]
    ledger.create(BATCH, jobs)
    claim = ledger.claim(job(4).id, "w")
    assert claim is not None
    ledger.redis.delete(record(ledger, 0))
    ledger.redis.hset(record(ledger, 0), "checkpoint", "3:12")
    ledger.redis.hset(record(ledger, 1), mapping={"state": "x", "attempt": "7"})
    ledger.redis.hset(record(ledger, 2), "labels", "{")
    for name in ledger.redis.scan_iter(ledger._key("*")):
        if ":job:" not in name:
            ledger.redis.delete(name)

    restored = ledger.restore(BATCH, jobs, damaged=ledger.damaged([new.id for new in jobs]))

    assert (restored.anew, restored.indexed) == (3, 2)
    assert restored.queued == {job(index).id for index in range(4)}
    assert ledger.batch(BATCH) == [new.id for new in jobs]
    assert ledger.counts() == {"queued": 4, "running": 1, "done": 0, "failed": 0, "cancelled": 0}
    assert ledger.waiting("emoji") == 4
    assert ledger.get(job(1).id).attempt == 100, "an attempt of before may still be writing"
    assert ledger.finish(claim, "w", "done", {}), "what is whole is left alone"
    assert ledger.restore(BATCH, jobs) == restored.__class__(restored.queued), "twice is as once"


def test_what_is_in_quarantine_is_made_anew(ledger: Ledger) -> None:
    ledger.create(BATCH, [job()])
    ledger.redis.delete(record(ledger))
    looked_over(ledger)
    assert ledger.quarantined() == {job().id: "its record is gone"}

    ledger.create(BATCH, [job()])

    assert ledger.quarantined() == {}
    assert ledger.claim(job().id, "w") is not None


def test_a_message_of_a_cancelled_job_brings_the_next_that_waits(ledger: Ledger) -> None:
    jobs = [job(0), job(1, priority=2), job(2, priority=9), job(3, model="other")]
    ledger.create(BATCH, jobs)
    ledger.cancel(job(0).id)

    def next_one(token: str) -> str | None:
        claim = ledger.claim(job(0).id, "w", token=token, instead=["emoji", "unheard-of"])
        return claim.job if claim else None

    assert ledger.claim(job(0).id, "w") is None, "unless another is welcome"
    assert next_one("a") == job(2).id, "by priority"
    assert next_one("a") == job(2).id, "a claim sent twice is granted once"
    assert next_one("b") == job(1).id
    assert next_one("c") is None
    assert ledger.get(job(3).id).state == "queued"


def test_a_suspect_is_nobodys_second_choice(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(0), job(1)])
    ledger.redis.hset(record(ledger, 1), "deaths", 2)
    ledger.cancel(job(0).id)

    assert ledger.claim(job(0).id, "w", instead=["emoji"]) is None


def damage_a_record(ledger: Ledger, index: int, draw: random.Random) -> None:
    name = record(ledger, index)
    match draw.randrange(4):
        case 0:
            ledger.redis.delete(name)
        case 1:
            ledger.redis.delete(name)
            ledger.redis.set(name, "x")
        case 2 if ledger.redis.type(name) == "hash":
            ledger.redis.hdel(name, draw.choice(FIELDS))
        case _ if ledger.redis.type(name) in ("hash", "none"):
            ledger.redis.hset(name, draw.choice(FIELDS), draw.choice(RUBBISH))


def damage_an_index(ledger: Ledger, draw: random.Random) -> None:
    names = ["jobs", "batches", f"batch:{BATCH}", *(f"state:{state}" for state in STATES), "waiting:emoji"]
    names += ["turn:emoji", "leases", "unpromoted", "models", "events", "control", "reaped", "quarantine"]
    name = ledger._key(draw.choice(names))
    index = job(draw.randrange(12)).id
    match draw.randrange(4):
        case 0:
            ledger.redis.delete(name)
        case 1:
            ledger.redis.delete(name)
            ledger.redis.set(name, "x")
        case 2 if ledger.redis.type(name) == "zset":
            ledger.redis.zadd(name, {draw.choice([index, b"\xff", "", "x"]): draw.choice([0, -1, 1e300, float("inf")])})
        case _ if ledger.redis.type(name) == "zset":
            ledger.redis.zrem(name, index)


def end_all(ledger: Ledger, reaper: Reaper, promoter: Promoter, healthy: list[str]) -> None:
    """What a farm does all the time, with time standing still; a worker of one slot takes whatever there is."""
    for _ in range(40):
        reaper.reap()
        looked_over(ledger)
        reaper.reconcile()
        promoter.promote_missing()
        for name in ledger.batch(BATCH):
            claim = ledger.claim(name, "w", instead=["emoji"], alone=True)
            if claim:
                ledger.renew("w", [(claim.job, claim.attempt, 1)])
                ledger.finish(claim, "w", "done", {"result": f"jobs/{claim.job}/{claim.attempt}/result.json"})
        if all(status.is_over for status in ledger.get_many(healthy)):
            return
        for name, lapse in ledger.redis.zrange(ledger._key("leases"), 0, -1, withscores=True):
            ledger.redis.zadd(ledger._key("leases"), {name: lapse - 20_000})


class _Bucket:
    """Takes everything: what is asked here is whether the ledger's loops go on."""

    def get(self, _: str) -> bytes:
        return b"{}"

    def put(self, key: str, data: bytes, content_type: str) -> None: ...


@pytest.mark.parametrize("seed", range(25))
def test_whatever_is_damaged_the_healthy_jobs_end(ledger: Ledger, queue: Queue, seed: int) -> None:
    draw = random.Random(seed)
    ledger.create(BATCH, [job(index, priority=index % 10) for index in range(12)])
    for index in range(0, 12, 3):
        assert ledger.claim(job(index).id, "dead", lease=0)
    for index in range(1, 12, 3):
        claim = ledger.claim(job(index).id, "w")
        assert claim and ledger.finish(claim, "w", "done", {"result": f"jobs/{claim.job}/1/result.json"})
    hurt = draw.sample(range(12), 5)
    storage: Any = _Bucket()
    reaper, promoter = Reaper(ledger, queue, "r", timing=Timing(unclaimed=0.0)), Promoter(storage, ledger)
    damages: list[Callable[[], None]] = [
        lambda: damage_a_record(ledger, draw.choice(hurt), draw),
        lambda: damage_an_index(ledger, draw),
    ]
    for _ in range(12):
        draw.choice(damages)()
    healthy = [job(index).id for index in range(12) if index not in hurt]

    end_all(ledger, reaper, promoter, healthy)

    statuses = ledger.get_many(healthy)
    assert [status.id for status in statuses] == healthy
    assert {status.state for status in statuses} == {"done"}


@pytest.mark.parametrize("junk", [*RUBBISH, None], ids=repr)
def test_a_spec_that_cannot_be_read_hides_no_other(ledger: Ledger, junk: str | bytes | None) -> None:
    ledger.create(BATCH, [job(0), job(1), job(2)])
    if junk is None:
        ledger.redis.delete(record(ledger, 1))
        ledger.redis.rpush(record(ledger, 1), "a list")
    else:
        ledger.redis.hset(record(ledger, 1), "spec", junk)

    assert ledger.specs([job(index).id for index in range(3)]) == {job(index).id: job(index).spec for index in (0, 2)}
