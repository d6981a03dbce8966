"""Memory that was freed is used again without asking the kernel for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHURN = """
import resource, threading
from worker.allocation import keep_freed_memory
keep_freed_memory()
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
