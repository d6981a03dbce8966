"""Celery's consumer: takes wake-up messages off the queues of a worker's models."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Collection, Iterable
from typing import Any

from farm.errors import FarmError
from farm.queue import TASK, celery_app, queue_name
from farm.settings import Settings
from worker.queue import transport
from worker.queue.intake import Intake


class Consumer:
    """Hands each message that comes to `handle`, on one of `slots` threads, while `intake` is open."""

    def __init__(
        self, where: Settings, intake: Intake, *, worker: str, slots: int, handle: Callable[[str], None]
    ) -> None:
        transport.install(intake)
        self._app = celery_app(where)
        self._app.task(name=TASK, ignore_result=True)(handle)
        self._worker = worker
        self._slots = slots
        self._consumer: Any = None

    def run(self, models: Iterable[str], on_ready: Callable[[], None], *, is_leaving: Callable[[], bool]) -> None:
        """Consume on this thread until a signal's handler calls `stop`. Raises `FarmError` if it ends before that."""
        from celery.signals import setup_logging, worker_ready

        def ready(**_: Any) -> None:
            on_ready()

        setup_logging.connect(_leave_logging_alone)
        worker_ready.connect(ready, weak=False)
        self._consumer = self._app.Worker(
            hostname=f"{self._worker}@{socket.gethostname()}",
            pool_cls="threads",
            concurrency=self._slots,
            queues=[queue_name(name) for name in models],
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            loglevel=logging.WARNING,
            quiet=True,
        )
        self._consumer.start()
        if not is_leaving():
            raise FarmError("the queue's consumer ended by itself", hint="what came before this in the log says why")

    def consume_only(self, models: Collection[str]) -> None:
        """Consume the queues of these models alone: at once, and whenever the consumer connects again."""
        wanted = {queue_name(name) for name in models}

        def consume() -> None:
            consumer = self._consumer.consumer
            queues = self._consumer.app.amqp.queues
            if consumer.task_consumer is None:
                queues.select(sorted(wanted))
                return
            consumed = {queue.name for queue in consumer.task_consumer.queues}
            for name in sorted(wanted - consumed):
                queues.select_add(queues[name])
                consumer.add_task_queue(name)
            for name in consumed - wanted:
                consumer.cancel_task_queue(name)

        self._consumer.consumer.call_soon(consume)  # on the consumer's own thread


def stop() -> None:
    """End the consumer of this process, from a signal's handler: raises what Celery ends by."""
    from celery.exceptions import WorkerShutdown
    from celery.worker import state

    state.should_stop = 0  # for when the exception comes up where nobody lets it through
    raise WorkerShutdown(0)


def _leave_logging_alone(**_: Any) -> None:
    """A receiver of this signal keeps Celery from configuring logging itself."""
