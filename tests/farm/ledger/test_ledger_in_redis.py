"""What only a ledger in Redis has: fields that strangers wrote, a password, and servers that are silent."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest

from farm.client import FarmClient
from farm.errors import LedgerUnavailable
from farm.ledger.ledger import Ledger
from farm.ledger.records import Claim, Position, Tie
from farm.settings import Settings
from tests.ledgers import BATCH, a_worker, job
from tests.waiting import eventually

NAME = job().id


def claimed(ledger: Ledger, worker: str, *, lease: float = 15.0, alone: bool = False) -> Claim:
    claim = ledger.claim(NAME, worker, lease=lease, alone=alone)
    assert claim is not None
    return claim


def test_a_look_makes_no_record_and_changes_none_that_is_over(ledger: Ledger) -> None:
    ledger.create(BATCH, [job()])
    ledger.finish(claimed(ledger, "w1"), "w1", "done", {})
    before = ledger.redis.hgetall(ledger._key("job", NAME))

    assert ledger.subscribe_previews([NAME, job(1).id], seconds=60) == []

    assert ledger.redis.hgetall(ledger._key("job", NAME)) == before
    assert not ledger.redis.exists(ledger._key("job", job(1).id))


@pytest.mark.parametrize("junk", ["", "soon", "nan", "[]"])
def test_leases_are_renewed_whatever_a_stranger_wrote_where_looks_are_noted(ledger: Ledger, junk: str) -> None:
    ledger.create(BATCH, [job()])
    claim = claimed(ledger, "w1")
    ledger.redis.hset(ledger._key("job", NAME), "previews_until", junk)

    renewed = ledger.renew("w1", [(NAME, claim.attempt, 4)])

    assert (renewed.lost, renewed.previewed) == (set(), set())
    assert ledger.get(NAME).step == 4


@pytest.mark.long
def test_a_silent_redis_is_named_without_its_password() -> None:
    ledger = Ledger(Settings(redis_url="redis://:hunter2@127.0.0.1:1/0"))
    with pytest.raises(LedgerUnavailable, match=r"Redis at 127\.0\.0\.1:1/0 cannot be used") as caught:
        ledger.counts()
    assert "hunter2" not in str(caught.value)


def test_a_wrong_password_is_said(servers: Settings) -> None:
    address = servers.redis_url.rpartition("@")[2]
    ledger = Ledger(Settings(redis_url=f"redis://:wrong@{address}"))
    with pytest.raises(LedgerUnavailable, match="refuses the password"):
        ledger.counts()
    ledger.close()


def test_pages_go_on_from_a_position_whatever_became_of_its_job(ledger: Ledger) -> None:
    ledger.create(BATCH, [job(index) for index in range(5)])  # all of one millisecond, or nearly
    newest = ledger.newest()

    first, position = ledger.after(None, state="queued", limit=2)
    assert position
    ledger.cancel(position.job)
    rest, end = ledger.after(position, state="queued", limit=3)

    assert (first + rest, end) == (newest, None)
    assert ledger.after(position, state="cancelled", limit=3)[1] is None


def test_a_page_misses_nothing_when_newer_jobs_leave_the_list_as_it_is_read(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.create(BATCH, [job(index) for index in range(3)])
    older, middle, newer = (job(index).id for index in range(3))
    for score, name in enumerate((older, middle, newer), start=1):
        ledger.redis.zadd(ledger._key("state", "queued"), {name: score})
    count = ledger.redis.zcount

    def counted(*asked: str) -> int:
        number: int = count(*asked)
        ledger.redis.zrem(ledger._key("state", "queued"), newer)
        return number

    monkeypatch.setattr(ledger.redis, "zcount", counted)
    assert ledger.after(Position(middle, 2), state="queued", limit=5) == ([older], None)


def test_a_bucket_that_is_noted_between_two_questions_is_no_damage(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    exists, tie = ledger.redis.exists, Tie("farm", "0" * 32)

    def after_another_came(key: str) -> int:
        ledger.set_tie(tie)
        return int(exists(key))

    monkeypatch.setattr(ledger.redis, "exists", after_another_came)
    assert ledger.tie() == tie


def test_what_changed_since_a_cursor_is_told_as_long_as_it_is_known(ledger: Ledger) -> None:
    assert ledger.changed_since("0-0") is None
    ledger.create(BATCH, [job(index) for index in range(3)])
    cursor = ledger.now()
    assert ledger.changed_since(cursor) == []
    ledger.cancel(job(1).id)

    assert ledger.changed_since(cursor) == [job(1).id]
    assert ledger.changed_since("1-0") is None, "before the first that is kept"
    assert ledger.changed_since("99999999999999-0") is None, "in the future"


def test_what_is_said_once_stays_until_it_lapses(ledger: Ledger) -> None:
    assert ledger.once("a", "first", seconds=60) == "first"
    assert ledger.once("a", "second", seconds=60) == "first"
    assert ledger.once("b", "second", seconds=0.05) == "second"
    eventually(lambda: ledger.once("b", "third", seconds=60) == "third", "it has lapsed")


def test_what_a_stranger_wrote_of_drained_workers_drains_nobody(ledger: Ledger) -> None:
    key, worker = ledger._key("drained"), a_worker("gpu-0a1b")
    ledger.redis.delete(key)
    now = round(1000 * ledger.time().timestamp())
    for junk in (
        "",
        "finish",
        "finish:x:y",
        f"finish:{now}:{now}",
        f"finish:{'9' * 40}:{'9' * 40}",
        f"dance:{now}:{2 * now}",
    ):
        ledger.redis.hset(key, "gpu", junk)
        assert ledger.announce(worker) is None, junk
        assert ledger.drained() == [], junk
    ledger.redis.delete(key)
    ledger.redis.set(key, "not a hash")
    assert ledger.announce(worker) is None
    ledger.drain(["gpu"], "finish")
    assert ledger.announce(worker) == "finish"


def test_of_a_drained_worker_it_is_known_for_as_long_as_it_lives_and_a_week_more(ledger: Ledger) -> None:
    key, week = ledger._key("drained"), 7 * 24 * 3600 * 1000
    now = round(1000 * ledger.time().timestamp())
    ledger.redis.delete(key)
    ledger.redis.hset(key, "gone", f"finish:{now - week}:{now - 1}")
    ledger.redis.hset(key, "gpu", f"finish:{now - week}:{now + 60_000}")
    assert ledger.announce(a_worker("gpu-0a1b")) == "finish"

    wish, since, until = ledger.redis.hget(key, "gpu").split(":")
    assert (wish, int(since)) == ("finish", now - week)
    assert now + week <= int(until) < now + week + 60_000
    ledger.drain(["another"], "finish")
    assert ledger.redis.hkeys(key) == ["gpu", "another"], "what has lapsed is gone"


def test_of_lapsed_attempts_it_is_told_who_had_them_and_how_that_ended(ledger: Ledger) -> None:
    assert ledger.lapsed(NAME) == []
    ledger.create(BATCH, [job()])
    for worker in ("gpu, (attempt 9) or so", "w2"):
        claimed(ledger, worker, lease=-1.0)
        ledger.reap()
    ledger.note_death("w2", "ended with: Segmentation fault")
    now = ledger.time()

    first, second = ledger.lapsed(NAME)
    assert (first.worker, first.attempt, first.how) == ("gpu, (attempt 9) or so", 1, None)
    assert (second.worker, second.attempt, second.how) == ("w2", 2, "ended with: Segmentation fault")
    assert first.at and second.at and now - timedelta(minutes=1) < first.at <= second.at <= now
    ledger.redis.hset(ledger._key("job", NAME), "lapsed_at", "1:junk,2:,:3," + "9" * 3_000)
    assert [lapse.at for lapse in ledger.lapsed(NAME)] == [None, None], "as a reaper of an earlier version leaves it"
    ledger.redis.hset(ledger._key("job", NAME), "lapses", "w2 (attempt 2), \x1b[2J (attempt 3), (((" * 3_000)
    assert {lapse.attempt for lapse in ledger.lapsed(NAME)} == {2}
    assert ledger.lapsed(NAME)[0].how == "ended with: Segmentation fault"


def test_who_waits_for_shorter_is_told_sooner_of_a_redis_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        where = Settings(f"redis://127.0.0.1:{port}/0")
        with FarmClient(where, answers_within=0.1) as farm, pytest.raises(LedgerUnavailable, match="Timeout"):
            assert farm.ledger.redis.connection_pool.connection_kwargs["socket_timeout"] == 0.1
            farm.ledger.counts()
