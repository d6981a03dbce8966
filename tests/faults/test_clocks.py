"""Machines whose clocks are a minute off, one ahead and one behind: only Redis' clock counts."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.faults.farm import FaultyFarm
from tests.faults.plugin import paced
from tests.faults.processes import Process

SHIFT = 60

# Shifts the wall clock of a process, for everything in it, and leaves the clocks that only measure.
_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static time_t shift(void) { return atol(getenv("FAULT_CLOCK_SHIFT")); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(clock, now);
    if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += shift();
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec fine;
    clock_gettime(CLOCK_REALTIME, &fine);
    now->tv_sec = fine.tv_sec;
    now->tv_usec = fine.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec fine;
    clock_gettime(CLOCK_REALTIME, &fine);
    if (to) *to = fine.tv_sec;
    return fine.tv_sec;
}
"""


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that, loaded first, shifts a process' clock by `$FAULT_CLOCK_SHIFT` seconds."""
    folder = tmp_path_factory.mktemp("clock")
    (folder / "clock.c").write_text(_CLOCK, encoding="utf-8")
    compiler = shutil.which("cc") or "gcc"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", "clock.so", "clock.c", "-ldl"], cwd=folder, check=True)
    return folder / "clock.so"


@pytest.fixture
def skewed(farm: FaultyFarm, clock: Path) -> tuple[Process, Process]:
    shifts = {"ahead": SHIFT, "behind": -SHIFT}
    command = (sys.executable, "-m", "worker")  # the library is loaded as a program starts
    two = [
        farm.worker(name, command=command, environment={"LD_PRELOAD": str(clock), "FAULT_CLOCK_SHIFT": str(shift)})
        for name, shift in shifts.items()
    ]
    farm.start(*two)
    for worker, shift in zip(two, shifts.values(), strict=True):
        info = farm.info(worker)
        assert info is not None
        off = info.started - datetime.now(UTC)
        assert abs(off - timedelta(seconds=shift)) < timedelta(seconds=SHIFT / 2), "its clock is off"
    return two[0], two[1]


def test_leases_hold_and_lapse_whatever_the_workers_clocks_say(
    farm: FaultyFarm, skewed: tuple[Process, Process], chance: random.Random
) -> None:
    victim, heir = chance.sample(skewed, 2)
    jobs = farm.submit(count=8, steps=50, **paced(0.16, every=4))
    farm.until_running(jobs)
    in_hand = farm.held_by(victim, jobs)
    assert in_hand, "the victim holds nothing"

    fault = farm.kill(victim)

    over = farm.until_over(jobs)
    assert {(status.state, status.attempt) for status in over if status.id not in in_hand} == {("done", 1)}
    for job in in_hand:
        resumed = farm.history.claims(job)[1]
        assert (resumed.worker or "").startswith(f"{heir.name}-")
        assert farm.timing.renewal < resumed.at - fault.began <= farm.timing.lease + 15
    now = datetime.now(UTC)
    for status in over:
        assert status.started and status.finished
        assert status.submitted <= status.started <= status.finished <= now + timedelta(seconds=1)
