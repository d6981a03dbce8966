"""Memory that was freed is used again without asking the kernel for it, and a user's own settings win."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from worker.host.runtime import settle

CHURN = """
import resource, threading
from worker.host.runtime import settle
settle()
size = 64_000_000

def churn():
    for _ in range(20):
        b"x" * size

thread = threading.Thread(target=churn)
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""
PAGES_OF_ONE_ARRAY = 64_000_000 // 4096


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only the GNU C library is told")
def test_twenty_arrays_one_after_the_other_take_the_pages_of_few() -> None:
    done = subprocess.run([sys.executable, "-c", CHURN], capture_output=True, encoding="utf-8", timeout=120)

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 8 * PAGES_OF_ONE_ARRAY


NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="GNU's OpenMP is told")
@pytest.mark.parametrize(
    ("given", "settled"),
    [
        ({}, ["ACTIVE", "1000", "1"]),
        ({"GOMP_SPINCOUNT": "7"}, ["ACTIVE", "7", "1"]),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, ["PASSIVE", None, None]),
    ],
)
def test_threads_wait_briefly_awake_unless_told_otherwise(
    given: dict[str, str], settled: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {name: value for name, value in os.environ.items() if name not in NAMES}
    monkeypatch.setattr(os, "environ", others | given)
    settle()

    assert [os.environ.get(name) for name in NAMES] == settled


IMPORTING = """
import gc
from worker.host.runtime import importing
with importing():
    assert not gc.isenabled()
    import asyncio, email, json
assert gc.isenabled()
print(gc.get_freeze_count(), gc.get_count()[0])
"""


def test_what_was_imported_is_never_looked_through_for_garbage() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTING], capture_output=True, encoding="utf-8", timeout=120)

    assert done.returncode == 0, done.stderr
    frozen, left = map(int, done.stdout.split())
    assert frozen > 10_000 > left


IDLE = """
import time
from worker.host.runtime import settle
settle()
import torch
torch.set_num_threads(2)
torch.ones(1_000_000).add_(1)
began = time.process_time()
time.sleep(1)
print(time.process_time() - began)
"""


@pytest.mark.long
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="on one core they never spin for long")
def test_threads_that_wait_for_long_take_no_core() -> None:
    """With `ACTIVE` alone they would spin all the time."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", IDLE], capture_output=True, encoding="utf-8", timeout=120, env=environment
    )

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.5
