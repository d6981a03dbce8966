"""A job that crashes its process is found out; those that were rendered beside it are not blamed."""

from __future__ import annotations

from farm.ledger.ledger import MAX_DEATHS
from tests.faults.farm import FaultyFarm
from tests.faults.plugin import paced
from tests.waiting import eventually

# The simplest supervisor: it starts the worker again whenever it crashed, and ends with it otherwise.
RESTARTING = """
import os, runpy, signal
signal.signal(signal.SIGTERM, lambda *_: None)
while worker := os.fork():
    if os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) >= 0:
        raise SystemExit
runpy.run_module("worker", run_name="__main__")
"""
POISON = {"losses": [{"name": "poison", "every": 1}]}


def test_a_job_that_crashes_its_workers_fails_with_the_tail_of_the_crash_and_its_companions_are_done(
    farm: FaultyFarm,
) -> None:
    farm.start(farm.worker("other", model="other"))  # it tells of the losses that jobs may ask for
    flag = farm.flags / "poison"
    flag.touch()
    supervised = farm.worker("supervised", model="crashing", script=RESTARTING)
    [poison] = farm.submit(model="crashing", priority=0, **POISON)
    companions = farm.submit(model="crashing", priority=9, count=2, steps=50, **paced(0.05, every=3))
    with farm.fault("poison", supervised, may_cost=True):
        supervised.start()
        [verdict] = farm.until_over([poison])
    healthy = farm.until_over(companions)

    assert (verdict.state, verdict.attempt) == ("failed", MAX_DEATHS)
    assert verdict.error is not None and verdict.error.kind == "poison"
    assert {status.state for status in healthy} == {"done"}
    assert max(status.attempt for status in healthy) > 1, "they did suffer from its company"

    def told() -> str:
        [status] = farm.statuses([poison])
        assert status.error is not None
        return status.error.message

    eventually(lambda: "Segmentation fault" in told(), "the crash is told", within=60)
    assert "misbehaving.py" in told(), "with the place it happened at"
    assert "Segmentation fault" in farm.shell("status", poison)

    flag.unlink()
    farm.client.retry([poison])
    assert [status.state for status in farm.until_over([poison])] == ["done"]
    farm.retire(supervised)
