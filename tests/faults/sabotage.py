"""Every fault that the soak injects, one function each: it does its harm, and undoes it, to a farm at work.

To add one, write a function and decorate it; `on` says which of the saboteurs, who work side by side, does it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Literal

from farm.errors import FarmError
from farm.jobs.status import Waiting
from farm.queue import KEY_PREFIX
from tests.faults.farm import FaultyFarm
from tests.faults.processes import Process

Victim = Literal["workers", "servers"]
Sabotage = Callable[[FaultyFarm, random.Random], None]

SABOTAGE: dict[Victim, list[Sabotage]] = {"workers": [], "servers": []}


class NothingToDo(Exception):
    """There is no victim for this fault now."""


def fault(on: Victim) -> Callable[[Sabotage], Sabotage]:
    """Have the soak inject the decorated fault."""

    def register(sabotage: Sabotage) -> Sabotage:
        SABOTAGE[on].append(sabotage)
        return sabotage

    return register


@fault(on="workers")
def kill(farm: FaultyFarm, chance: random.Random) -> None:
    farm.kill(_a_worker(farm, chance))


@fault(on="workers")
def freeze(farm: FaultyFarm, chance: random.Random) -> None:
    """For less than a lease, or for more."""
    with farm.frozen(_a_worker(farm, chance)):
        time.sleep(_less_or_more_than_a_lease(farm, chance))


@fault(on="workers")
def leave(farm: FaultyFarm, chance: random.Random) -> None:
    """As a spot machine that is taken back, `docker stop`, or Ctrl-C."""
    worker = _a_worker(farm, chance)
    with farm.fault("SIGTERM", worker, may_cost=True, fatal=True):
        worker.ask_to_leave()
        worker.wait(120)


@fault(on="servers")
def kill_redis(farm: FaultyFarm, chance: random.Random) -> None:
    with farm.without_redis():
        time.sleep(chance.uniform(0, 5))


@fault(on="servers")
def freeze_redis(farm: FaultyFarm, chance: random.Random) -> None:
    with farm.frozen(farm.redis):
        time.sleep(_less_or_more_than_a_lease(farm, chance))


@fault(on="servers")
def kill_connections(farm: FaultyFarm, chance: random.Random) -> None:
    with farm.fault("connections killed"):
        for _ in range(chance.randrange(1, 4)):
            for kind in ("normal", "pubsub"):
                farm.client.ledger.redis.client_kill_filter(_type=kind)
            time.sleep(chance.uniform(0, 1))


@fault(on="servers")
def kill_s3(farm: FaultyFarm, chance: random.Random) -> None:
    with farm.without_s3():
        time.sleep(chance.uniform(0, 8))


@fault(on="servers")
def freeze_s3(farm: FaultyFarm, chance: random.Random) -> None:
    with farm.frozen(farm.s3):
        time.sleep(chance.uniform(1, 8))


@fault(on="servers")
def repeat_messages(farm: FaultyFarm, chance: random.Random) -> None:
    """Of jobs in every state."""
    if not farm.submitted:
        raise NothingToDo
    with farm.fault("messages repeated"):
        for status in farm.statuses(chance.sample(farm.submitted, min(10, len(farm.submitted)))):
            farm.client.queue.publish([Waiting(status.id, status.model, chance.randrange(10))] * 3)


@fault(on="servers")
def drop_messages(farm: FaultyFarm, chance: random.Random) -> None:
    """As by workers that die between a message and its claim."""
    redis = farm.client.ledger.redis
    queues = list(redis.scan_iter(f"{KEY_PREFIX}*", _type="list"))
    if not queues:
        raise NothingToDo
    with farm.fault("messages dropped"):
        redis.rpop(chance.choice(queues), chance.randrange(1, 6))


def _less_or_more_than_a_lease(farm: FaultyFarm, chance: random.Random) -> float:
    lease = farm.timing.lease
    return chance.choice([chance.uniform(0, lease / 2), chance.uniform(lease + 1, 1.6 * lease + 1)])


def _a_worker(farm: FaultyFarm, chance: random.Random) -> Process:
    """One that is ready for jobs."""
    try:
        ready = {info.pid for info in farm.client.workers() if info.state == "ready"}
    except FarmError:
        raise NothingToDo from None
    victims = [worker for worker in farm.workers.values() if worker.is_running and worker.pid in ready]
    if not victims:
        raise NothingToDo
    return chance.choice(victims)
