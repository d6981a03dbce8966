"""The worker's consumer of messages, where Redis refuses for a while what it asks."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis
from kombu import transport as transports
from kombu.entity import Queue as Messages
from kombu.messaging import Consumer

from farm.jobs.status import Waiting
from farm.ledger.redis_errors import KEYS
from farm.queue import KEY_PREFIX, Queue, celery_app, lists, queue_name
from farm.settings import Settings
from tests.ledgers import job
from tests.users import lesser
from tests.waiting import eventually
from worker.queue import transport
from worker.queue.intake import Intake
from worker.queue.messages import MAX_CHARACTERS, jobs_named, wake_up


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
        return any("b" in client["flags"] for client in server.client_list())

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
        messages = Messages(queue_name("emoji"))
        with (
            celery_app(servers).connection() as connection,
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
    told = [entry.message for entry in caplog.records if entry.name == "worker.queue.transport"]
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
    with celery_app(servers).connection() as connection:
        connection.default_channel.queue_declare("farm.x")
    operator.join(60)

    assert intake.is_open
    assert reasons[0] and "read only replica" in reasons[0]


def test_a_right_that_is_denied_is_told_and_waited_for(
    servers: Settings, server: redis.Redis, intake: Intake, caplog: pytest.LogCaptureFixture
) -> None:
    def grant() -> None:
        try:
            eventually(lambda: not intake.is_open, "the intake is paused")
            server.execute_command("ACL", "SETUSER", "lesser", "+brpop")
            eventually(lambda: intake.is_open, "it is open again")
        finally:  # a consumer that lacks anything else waits for it
            server.execute_command("ACL", "SETUSER", "lesser", "+@all", "~*")

    operator = threading.Thread(target=grant, daemon=True)
    with lesser(servers, server, KEYS, "-brpop") as settings:
        operator.start()
        with celery_app(settings).connection() as connection:
            connection.default_channel.queue_declare("farm.x")
        operator.join(60)

    [line] = [entry.message for entry in caplog.records if entry.name == "worker.queue.transport"]
    assert "Redis refuses what the queue needs: this user lacks +brpop (grant it: ACL SETUSER " in line


def test_a_message_of_a_queue_that_is_no_more_consumed_stays_in_it_for_others(
    servers: Settings, server: redis.Redis, intake: Intake, caplog: pytest.LogCaptureFixture
) -> None:
    """The consumer had asked Redis for it before it stopped consuming that queue."""
    seen: list[Any] = []
    queues = [Messages(queue_name(name)) for name in ("emoji", "other")]
    queue = Queue(servers)

    def drained(connection: Any) -> bool:
        with contextlib.suppress(TimeoutError):
            connection.drain_events(timeout=0.2)
        return any("b" in client["flags"] for client in server.client_list())

    with (
        celery_app(servers).connection() as connection,
        Consumer(connection, queues, callbacks=[lambda body, _: seen.append(body)], no_ack=True) as consumer,
    ):
        eventually(lambda: drained(connection), "it waits for messages of both")
        consumer.cancel_by_queue(queue_name("emoji"))
        queue.publish([Waiting(job().id, "emoji", 5), Waiting(job(1).id, "other", 5)])
        eventually(lambda: drained(connection) and seen, "that of the other queue comes")

    assert [body[0] for body in seen] == [[job(1).id]]
    assert jobs_named(queue.entries("emoji")) == {job().id}
    queue.close()
    assert not caplog.records


def test_what_another_application_has_not_acknowledged_is_left_to_it(
    servers: Settings, server: redis.Redis, intake: Intake
) -> None:
    """By Celery's own names for its keys, applications in one database deliver each other's messages again."""
    theirs = json.dumps([wake_up(job().id, "theirs"), "", "theirs"])
    server.hset("unacked", "tag", theirs)
    server.zadd("unacked_index", {"tag": 1})

    with celery_app(servers).connection() as connection:
        connection.default_channel.qos.restore_visible(interval=1)

    assert server.hgetall("unacked") == {b"tag": theirs.encode()}
    assert not server.exists("theirs")


def test_redelivery_touches_no_keys_but_the_farms(servers: Settings, server: redis.Redis, intake: Intake) -> None:
    seen: list[Any] = []
    index = f"{KEY_PREFIX}unacked_index"

    def take(body: Any, message: Any) -> None:
        seen.append(body)
        if len(seen) == 2:
            message.ack()

    def drained(connection: Any, wanted: int) -> bool:
        with contextlib.suppress(TimeoutError):
            connection.drain_events(timeout=1)
        return len(seen) >= wanted

    with lesser(servers, server, KEYS) as settings, celery_app(settings).connection() as connection:
        queue = Queue(settings)
        queue.publish([Waiting(job().id, "emoji", 5)])
        queue.close()
        channel = connection.default_channel
        with Consumer(channel, [Messages(queue_name("emoji"))], callbacks=[take]):
            eventually(lambda: drained(connection, 1), "it is delivered")
            tag: Any
            [tag] = server.zrange(index, 0, -1)
            server.zadd(index, {tag: 1})  # as if it were long ago
            channel.qos.restore_visible(interval=1)
            eventually(lambda: drained(connection, 2), "it is delivered again")
            channel.queue_purge(queue_name("emoji"))

    assert [body[0] for body in seen] == [[job().id]] * 2
    assert not server.exists(index)
    left: list[Any] = server.keys("*")
    assert all(key.startswith(KEY_PREFIX.encode()) for key in left)
    assert server.acl_log() == []


def published(servers: Settings, server: redis.Redis) -> tuple[Any, bytes]:
    """The list in which a message of ours waits, and that message."""
    queue = Queue(servers)
    queue.publish([Waiting(job().id, "emoji", 5)])
    queue.close()
    [key] = server.keys(f"{lists('emoji')[0]}*")
    ours = server.lindex(key, 0)
    assert isinstance(ours, bytes)
    return key, ours


def test_a_long_message_is_dropped_unread(
    servers: Settings, server: redis.Redis, intake: Intake, caplog: pytest.LogCaptureFixture
) -> None:
    """To read it would take ten times its size, which the worker would keep."""
    key, ours = published(servers, server)
    assert len(ours) < MAX_CHARACTERS // 20
    server.rpush(key, ours[:-1].decode() + ', "x": "' + "x" * MAX_CHARACTERS + '"}')  # the next to be taken

    seen: list[Any] = []
    with (
        celery_app(servers).connection() as connection,
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
    with closing(Queue(servers)) as queue:
        assert jobs_named(queue.entries("emoji")) == {job().id}
        server.lset(key, 0, ours[:-1].decode() + ', "x": "' + "x" * MAX_CHARACTERS + '"}')
        assert jobs_named(queue.entries("emoji")) == set()
