"""A Redis transport for Celery that lets a message say one thing only: which job waits.

Whoever can write to the queue can write anything into it, and Celery's consumer ends at a message whose outside
it does not expect, or follows headers of the sender's choosing. So every message is read here first: it names a
job, and then a plain message of our own making is delivered in its place; or it does not, and is dropped.
"""

from __future__ import annotations

import base64
import json
import logging
import uuid
from queue import Empty
from typing import Any

from kombu import transport
from kombu.transport import redis

from farm import keys
from farm.queue import TASK
from worker.intake import Intake

_log = logging.getLogger(__name__)

_MAX_BODY_CHARACTERS = 4_096


def install(intake: Intake) -> None:
    """Make Celery use this transport for `redis://` and `rediss://` in this process. Nothing is read while the intake
    is paused."""

    class QoS(redis.QoS):
        def can_consume(self) -> bool:
            return intake.is_open and bool(super().can_consume())  # type: ignore[no-untyped-call]

    channel = type("Channel", (CarefulChannel,), {"QoS": QoS})
    with_intake = type("Transport", (CarefulTransport,), {"Channel": channel})
    aliases: dict[str, Any] = transport.TRANSPORT_ALIASES  # kombu calls what is no name
    for scheme in ("redis", "rediss"):
        aliases[scheme] = lambda: with_intake


def job_named_by(message: object) -> str | None:
    """The job that a message of the queue names, or None if it is not one of ours."""
    match message:
        case {"headers": {"task": task}, "content-type": "application/json", "body": str(body)}:
            if task == TASK and len(body) <= _MAX_BODY_CHARACTERS:
                return _job_in(body)
    return None


def _job_in(body: str) -> str | None:
    try:
        payload = json.loads(base64.b64decode(body, validate=True))
    except (ValueError, RecursionError):
        return None
    match payload:
        case [[str(job)], {}, *_] if keys.is_job_id(job):
            return job
    return None


def wake_up(job: str, queue: str) -> dict[str, Any]:
    """A message in Celery's protocol 2 that names `job` and asks for nothing else."""
    identifier = str(uuid.uuid4())
    headers = {"lang": "py", "task": TASK, "id": identifier, "root_id": identifier, "retries": 0, "ignore_result": True}
    return {
        "body": base64.b64encode(json.dumps([[job], {}, {}]).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": {
            "correlation_id": identifier,
            "delivery_tag": identifier,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "body_encoding": "base64",
        },
    }


class CarefulChannel(redis.Channel):
    """Survives entries of the queue that are no message at all, and queues that are none."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except self.ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            self._remove_what_is_no_queue()
            raise Empty from error
        except (Empty, *self.connection_errors):
            raise
        except Exception as error:  # the JSON hooks of kombu raise whatever an entry makes them raise
            _log.warning("dropped an entry of the queue that is no message: %s", error)
            raise Empty from error

    def _remove_what_is_no_queue(self) -> None:
        """A key with a queue's name and of another kind ends every worker that waits for it; no job is in it."""
        names = [self._q_for_pri(queue, level) for queue in self.active_queues for level in self.priority_steps]  # type: ignore[no-untyped-call]
        with self.conn_or_acquire() as client:
            for name in names:
                if client.type(name) not in (b"list", b"none"):
                    _log.warning("removed the queue %r, which was none", name)
                    client.delete(name)


class CarefulTransport(redis.Transport):
    """Delivers a message of our own making for each that names a job, and nothing for others."""

    Channel = CarefulChannel

    def _deliver(self, message: object, queue: str) -> None:
        job = job_named_by(message)
        if job is None:
            _log.warning("dropped a message that names no job: %.120r", message)
        else:
            super()._deliver(wake_up(job, queue), queue)  # type: ignore[no-untyped-call]
