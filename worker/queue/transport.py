"""A Redis transport for Celery that lets a message say one thing only: which job waits.

Whoever can write to the queue can write anything into it, and Celery's consumer ends at a message whose outside
it does not expect, or follows headers of the sender's choosing. So every message is read here first: it names a
job, and then a plain message of our own making is delivered in its place; or it does not, and is dropped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty
from typing import Any

from kombu import transport
from kombu.transport import redis
from kombu.utils.json import loads
from redis.exceptions import ResponseError

from farm.ledger.redis_errors import lack
from worker.queue.intake import Intake
from worker.queue.messages import MAX_CHARACTERS, job_named_by, wake_up

_log = logging.getLogger(__name__)

_PROBE, _PROBE_SET, _PROBE_LIST = "probe", "probe:set", "probe:list"
_PROBE_MS = 5_000
_RETRY_SECONDS = 1.0


def install(intake: Intake) -> None:
    """Make Celery use this transport for `redis://` and `rediss://` in this process. Nothing is read while the intake
    is paused."""

    class QoS(redis.QoS):
        def can_consume(self) -> bool:
            return intake.is_open and bool(super().can_consume())  # type: ignore[no-untyped-call]

    kombus: Any = redis
    kombus.loads = _bounded_loads
    channel = type("Channel", (CarefulChannel,), {"QoS": QoS, "intake": intake})
    with_intake = type("Transport", (CarefulTransport,), {"Channel": channel})
    aliases: dict[str, Any] = transport.TRANSPORT_ALIASES  # kombu calls what is not a string
    for scheme in ("redis", "rediss"):
        aliases[scheme] = lambda: with_intake


def _bounded_loads(entry: str | bytes) -> Any:
    """kombu's `loads`, which reads the entries of a queue, for those of moderate length."""
    if len(entry) > MAX_CHARACTERS:
        raise ValueError(f"it has {len(entry):,} characters, more than {MAX_CHARACTERS:,}")
    return loads(entry)


class CarefulChannel(redis.Channel):
    """Survives entries of the queue that are not messages at all, keys that are not queues, and a Redis that takes no
    writes: one that became a replica, or whose disk or memory is full. kombu ends at what it answers then."""

    intake: Intake

    def wait_until_writable(self, refusal: ResponseError | None = None) -> None:
        """Return once Redis takes writes: it is asked at once, or after a while if it has just refused. Raises a
        connection error of redis-py if it goes away meanwhile, which Celery waits out."""
        if refusal is None and (refusal := self._refusal()) is None:
            return
        with self._told(refusal):
            while True:
                time.sleep(_RETRY_SECONDS)
                if self._refusal() is None:
                    return

    def _refusal(self) -> ResponseError | None:
        """What Redis has against writing as kombu does, in a transaction, and against waiting for messages."""
        try:
            with self.conn_or_acquire() as client:
                client.set(_PROBE, "", px=_PROBE_MS)
                with client.pipeline() as pipeline:  # in which nothing waits
                    pipeline.sadd(_PROBE_SET, "").delete(_PROBE_SET).brpop(_PROBE_LIST, timeout=1).execute()
        except ResponseError as error:
            return error
        return None

    @contextmanager
    def _told(self, refusal: ResponseError) -> Iterator[None]:
        denied = lack(refusal)
        said = f"this user lacks {denied.right} ({denied.mend})" if denied and denied.right else str(refusal)
        _log.warning("Redis refuses what the queue needs: %s; waiting until it allows it", said)
        with self.intake.paused(f"Redis refuses: {said}"):
            yield
        _log.info("Redis takes writes again")

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except self.ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                self.wait_until_writable(error)
            else:
                self._remove_what_is_no_queue()
            raise Empty from error
        except (Empty, *self.connection_errors):
            raise
        except Exception as error:  # the JSON hooks of kombu raise whatever an entry makes them raise
            _log.warning("dropped an entry of the queue that is not a message: %s", error)
            raise Empty from error

    def _remove_what_is_no_queue(self) -> None:
        """A key with a queue's name and of another kind ends every worker that waits for it; no job is in it."""
        names = [self._q_for_pri(queue, level) for queue in self.active_queues for level in self.priority_steps]  # type: ignore[no-untyped-call]
        with self.conn_or_acquire() as client:
            for name in names:
                if client.type(f"{self.global_keyprefix}{name}") not in (
                    b"list",
                    b"none",
                ):  # kombu puts it before others
                    _log.warning("removed the key %r, which has a queue's name but was not a queue", name)
                    client.delete(name)


class CarefulTransport(redis.Transport):
    """Delivers a message of our own making for each that names a job, and nothing for others."""

    Channel = CarefulChannel

    def establish_connection(self) -> Any:
        """For the consumer, which is the main thread, a connection to a Redis that takes writes: kombu writes as soon
        as it has one. Others who publish are told at once."""
        established = super().establish_connection()  # type: ignore[no-untyped-call]
        if threading.current_thread() is threading.main_thread():
            for channel in self._avail_channels:
                channel.wait_until_writable()
        return established

    def _deliver(self, message: object, queue: str) -> None:
        job = job_named_by(message)
        if job is None:
            _log.warning("dropped a message that names no job: %.120r", message)
        elif queue not in self._callbacks:  # no more consumed since Redis was asked for it: others may take it
            self._reject_inbound_message(wake_up(job, queue))  # type: ignore[no-untyped-call]
        else:
            super()._deliver(wake_up(job, queue), queue)  # type: ignore[no-untyped-call]
