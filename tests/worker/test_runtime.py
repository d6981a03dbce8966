"""Memory that was freed is used again without asking the kernel for it, and a user's own settings win."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from worker.runtime import settle

CHURN = """
import resource, threading
from worker.runtime import settle
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
    done = subprocess.run([sys.executable, "-c", CHURN], capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 8 * PAGES_OF_ONE_ARRAY


@pytest.mark.parametrize(("given", "settled"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_told_otherwise(
    given: dict[str, str], settled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settle()

    assert os.environ["OMP_WAIT_POLICY"] == settled
    monkeypatch.delenv("OMP_WAIT_POLICY")
