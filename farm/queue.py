"""The Celery queues: one per model, ten priorities. A message is a wake-up for a worker, never the truth.

Its priority is the one that the job had when it was sent, and says only into which queue a worker looks first.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from farm import keys
from farm.errors import LedgerUnavailable
from farm.ledger.redis_errors import unavailable

if TYPE_CHECKING:
    from celery import Celery

    from farm.jobs.status import Waiting
    from farm.settings import Settings

TASK = "farm.render"
KEY_PREFIX = "farm:celery:"
"""What Celery's keys begin with: under its own names for them, other applications in this database would share them."""
_LEVELS = 10
_PRIORITY_SEPARATOR = "\x06\x16"  # kombu's: the list of priority p > 0 is called queue + this + p


def queue_name(model: str) -> str:
    """The queue of a model: `farm.` and its name."""
    return f"farm.{keys.model_name(model)}"


def celery_app(settings: Settings) -> Celery:
    """A Celery application on the farm's Redis, for publishing and for workers alike.

    Messages are acknowledged when received: what happens to a job is the ledger's business, and Redis'
    visibility timeout would run healthy long jobs twice.
    """
    from celery import Celery

    app = Celery("farm", broker=settings.redis_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        task_default_priority=_celery_priority(5),
        task_create_missing_queues=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_transport_options={
            "global_keyprefix": KEY_PREFIX,
            "priority_steps": list(range(_LEVELS)),
            "queue_order_strategy": "priority",
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
    )
    return app


class Queue:
    """Publishes wake-up messages, and tells what waits. Raises `LedgerUnavailable` when Redis cannot be used."""

    def __init__(self, settings: Settings) -> None:
        self.address = settings.redis_address
        self._settings = settings
        self._app = celery_app(settings)

    def publish(self, jobs: Iterable[Waiting]) -> None:
        """Send one message per job, over one connection, many at once. Priority 9 is delivered first."""
        from kombu.exceptions import BatchPublishError, OperationalError
        from redis import RedisError

        try:
            with self._app.producer_pool.acquire(block=True) as producer, producer.batch():
                for job in jobs:
                    self._app.send_task(
                        TASK,
                        args=[job.job],
                        queue=queue_name(job.model),
                        priority=_celery_priority(job.priority),
                        producer=producer,
                        ignore_result=True,
                        retry=True,
                        retry_policy={"max_retries": 3, "interval_start": 0.2, "interval_step": 0.4},
                    )
        except (OperationalError, BatchPublishError, RedisError, OSError) as error:
            raise unavailable(self.address, error) from error

    def depth(self, model: str) -> int:
        """How many messages wait in a model's queue, over all priorities."""
        pipeline = self._redis.pipeline(transaction=False)
        for name in lists(model):
            pipeline.llen(name)
        return sum(self._answers(pipeline, model))

    def entries(self, model: str) -> list[str]:
        """Everything that waits in a model's queue, as it is there."""
        pipeline = self._redis.pipeline(transaction=False)
        for name in lists(model):
            pipeline.lrange(name, 0, -1)
        return [entry for found in self._answers(pipeline, model) for entry in found]

    @cached_property
    def _redis(self) -> Any:
        from farm.ledger.connection import connect

        return connect(self._settings)

    def _answers(self, pipeline: Any, model: str) -> list[Any]:
        from redis import RedisError

        try:
            answers: list[Any] = pipeline.execute()
        except RedisError as error:
            raise LedgerUnavailable(f"the queue {queue_name(model)} cannot be read: {error}") from error
        return answers

    def close(self) -> None:
        self._app.close()
        if "_redis" in self.__dict__:
            self._redis.close()


def lists(model: str) -> list[str]:
    """The Redis lists of a model's queue, the most urgent first."""
    name = f"{KEY_PREFIX}{queue_name(model)}"
    return [f"{name}{_PRIORITY_SEPARATOR}{level}" if level else name for level in range(_LEVELS)]


def _celery_priority(priority: int) -> int:
    """Ours runs from 0 to 9 with 9 the most urgent; on Redis, Celery's 0 is the most urgent."""
    return _LEVELS - 1 - priority
