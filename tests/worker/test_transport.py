"""The worker's consumer of messages, where Redis refuses for a while what it asks."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from kombu import Connection, Consumer
from kombu import Queue as Messages
from kombu import transport as transports

from farm.jobs import Waiting
from farm.ledger import Ledger
from farm.queue import Queue, queue_name
from farm.settings import Settings
from tests.ledgers import job
from tests.waiting import eventually
from worker import transport
from worker.intake import Intake
from worker.messages import MAX_CHARACTERS, jobs_named


@pytest.fixture
def intake(monkeypatch: pytest.MonkeyPatch) -> Intake:
    aliases: dict[str, Any] = transports.TRANSPORT_ALIASES
    for scheme in ("redis", "rediss"):
        monkeypatch.setitem(aliases, scheme, aliases[scheme])
    monkeypatch.setattr(transports, "_transport_cache", {})
    intake = Intake()
    transport.install(intake)
    return intake


@pytest.fixture
def server(servers: Settings) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(servers.redis_url)
    client.flushdb()
    yield client
    client.replicaof("NO", "ONE")
    client.close()


def test_a_redis_that_becomes_a_replica_is_waited_out_and_told_once(
    servers: Settings, server: redis.Redis, intake: Intake, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    seen: list[Any] = []
    reasons: list[str | None] = []

    def blocked() -> bool:
        return any(client["cmd"] == "brpop" for client in server.client_list())

    def fail_over_and_back() -> None:
        eventually(blocked, "the consumer waits for a message")
        server.replicaof("127.0.0.1", "1")
        eventually(lambda: not intake.is_open, "the intake is paused")
        reasons.append(intake.reason)
        server.replicaof("NO", "ONE")
        eventually(lambda: intake.is_open, "it is open again")
        queue = Queue(servers)
        queue.publish([Waiting(job().id, "emoji", 5)])
        queue.close()

    def consume() -> None:
        """Until a message came or the connection is lost, which Celery waits out."""
        options = {"priority_steps": list(range(10))}
        messages = Messages(queue_name("emoji"))
        with (
            Connection(servers.redis_url, transport_options=options) as connection,
            Consumer(connection, [messages], callbacks=[lambda body, _: seen.append(body)], no_ack=True),
            contextlib.suppress(TimeoutError, redis.ConnectionError),
        ):
            while not seen:
                connection.drain_events(timeout=1)

    operator = threading.Thread(target=fail_over_and_back, daemon=True)
    operator.start()
    give_up = time.monotonic() + 60
    while not seen and time.monotonic() < give_up:
        consume()
    operator.join(60)

    assert [body[0] for body in seen] == [[job().id]]
    assert reasons[0] and "UNBLOCKED" in reasons[0]
    told = [entry.message for entry in caplog.records if entry.name == "worker.transport"]
    assert [line.split(":")[0] for line in told] == [
        "Redis refuses what the queue needs",
        "Redis takes writes again",
    ]


def test_a_connection_to_a_replica_is_made_when_it_takes_writes(
    servers: Settings, server: redis.Redis, intake: Intake
) -> None:
    server.replicaof("127.0.0.1", "1")
    reasons: list[str | None] = []

    def promote() -> None:
        eventually(lambda: not intake.is_open, "the intake is paused")
        reasons.append(intake.reason)
        server.replicaof("NO", "ONE")

    operator = threading.Thread(target=promote, daemon=True)
    operator.start()
    with Connection(servers.redis_url) as connection:
        connection.default_channel.queue_declare("farm.x")
    operator.join(60)

    assert intake.is_open
    assert reasons[0] and "read only replica" in reasons[0]


def published(servers: Settings, server: redis.Redis) -> tuple[Any, bytes]:
    """The list in which a message of ours waits, and that message."""
    queue = Queue(servers)
    queue.publish([Waiting(job().id, "emoji", 5)])
    queue.close()
    [key] = server.keys(f"{queue_name('emoji')}*")
    ours = server.lindex(key, 0)
    assert isinstance(ours, bytes)
    return key, ours


def test_a_long_message_is_dropped_unread(
    servers: Settings, server: redis.Redis, intake: Intake, caplog: pytest.LogCaptureFixture
) -> None:
    """To read it would take ten times its size, which the worker would keep."""
    key, ours = published(servers, server)
    assert len(ours) < MAX_CHARACTERS // 20
    server.rpush(key, ours[:-1] + b', "x": "' + b"x" * MAX_CHARACTERS + b'"}')  # the next to be taken

    seen: list[Any] = []
    options = {"priority_steps": list(range(10))}
    with (
        Connection(servers.redis_url, transport_options=options) as connection,
        Consumer(
            connection, [Messages(queue_name("emoji"))], callbacks=[lambda body, _: seen.append(body)], no_ack=True
        ),
    ):
        give_up = time.monotonic() + 60
        while not seen and time.monotonic() < give_up:
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=1)

    assert [body[0] for body in seen] == [[job().id]]
    assert "more than 65,536" in caplog.text
    assert not server.exists(key)


def test_a_long_message_names_no_job(servers: Settings, server: redis.Redis) -> None:
    key, ours = published(servers, server)
    with Ledger(servers).redis as connection:
        assert jobs_named(connection, "emoji") == {job().id}
        server.lset(key, 0, ours[:-1] + b', "x": "' + b"x" * MAX_CHARACTERS + b'"}')
        assert jobs_named(connection, "emoji") == set()
