"""Redis is lost with everything in it, under running workers; `farm recover` rebuilds the ledger from the bucket."""

from __future__ import annotations

import json
import random
import time

from farm import keys
from farm.client.recover import recover
from tests.faults.farm import FaultyFarm
from tests.faults.plugin import paced
from tests.faults.processes import Process
from tests.waiting import eventually

Pair = tuple[Process, Process]


def test_finished_work_is_kept_and_the_rest_is_rendered(farm: FaultyFarm, pair: Pair, chance: random.Random) -> None:
    """Some jobs are done, some in the hands of two workers, some queued; the same workers go on."""
    finished = farm.submit(count=3, trace="numbers")
    farm.until_over(finished)
    results = {job: farm.client.result(job) for job in finished}
    in_hand = farm.submit(count=6, steps=20, **paced(0.2))
    farm.until_running(in_hand)
    waiting = farm.submit(model="later", priority=8, labels={"who": "me"}, count=2)
    time.sleep(chance.uniform(0, 2))
    pids = [worker.pid for worker in pair]

    farm.lose_redis()
    told = json.loads(farm.shell("recover", "--json"))

    assert told["damaged"] == []
    assert {job: farm.client.result(job) for job in finished} == results
    farm.start(late := farm.worker("late", model="later"))
    assert {status.state for status in farm.until_over([*in_hand, *waiting])} == {"done"}
    assert {(s.priority, s.labels["who"]) for s in farm.statuses(waiting)} == {(8, "me")}
    assert [worker.pid for worker in pair if worker.is_running] == pids
    farm.retire(late)


def test_attempts_go_on_from_those_that_the_bucket_knows(farm: FaultyFarm, pair: Pair) -> None:
    """A worker that slept through it all wakes with the same job in hand, and must not write where the next one did."""
    zombie, heir = pair
    farm.retire(heir)
    [job] = farm.submit(steps=20, **paced(0.1), trace="numbers")
    farm.until_running([job])
    with farm.frozen(farm.s3):
        eventually(lambda: farm.statuses([job])[0].step == 20, "its picture waits for the bucket only")
        with farm.frozen(zombie):
            farm.s3.thaw()
            farm.start(heir)
            farm.lose_redis()
            recover(farm.client)
            [status] = farm.until_over([job])
            winner = farm.client.result(job)
            assert (status.worker or "").startswith(heir.name)

    eventually(lambda: f"job {job} was cancelled or is another worker's by now" in zombie.last_words, "it is refused")
    assert farm.client.result(job) == winner
    assert winner.attempt > 1


def test_the_attempt_that_won_wins_again(farm: FaultyFarm, pair: Pair) -> None:
    """Of two complete attempts in the bucket, the job's own `result.json` tells which one people have seen."""
    [job] = farm.submit()
    farm.audited()
    storage = farm.client.storage
    for attempt in (10, 9):  # complete, and too late: their workers had lost their leases
        result = json.loads(storage.get(keys.result(job))) | {"attempt": attempt}
        storage.put(keys.attempt_result(job, attempt), json.dumps(result).encode(), "application/json")
    seen = farm.client.result(job)

    farm.lose_redis()
    recover(farm.client)

    assert farm.client.result(job) == seen


def test_a_result_that_nobody_had_accepted_yet_is_accepted(farm: FaultyFarm, pair: Pair) -> None:
    """Its worker died between storing it and saying so: it is as good as any."""
    [job] = farm.submit()
    farm.audited()
    farm.client.storage.delete(keys.result(job))

    farm.lose_redis()
    recover(farm.client)

    assert farm.statuses([job])[0].state == "done"
    assert farm.client.storage.exists(keys.result(job)), "and it is where those look who know only the bucket"
