"""What only a ledger in Redis has: fields that strangers wrote, a password, and servers that are silent."""

from __future__ import annotations

import pytest

from farm.errors import LedgerUnavailable
from farm.ledger.ledger import Ledger
from farm.ledger.records import Claim
from farm.settings import Settings
from tests.ledgers import BATCH, job

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
