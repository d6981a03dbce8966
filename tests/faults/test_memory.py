"""Memory that runs out in the middle of a batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.tiny import build_tiny_model


def test_a_batch_that_does_not_fit_is_made_smaller_and_only_a_job_that_cannot_fit_alone_fails(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "tiny")
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.scarce", str(model)],
        # what is freed goes back to the system at once, so that what fits does not depend on how the heap is torn
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)

    ends = said["ends"]
    assert {name: end for name, end in ends.items() if end != "done"} == {"huge": "memory"}
    assert len(ends) == 26
    assert said["warnings"] == ["the picture was decoded in tiles, because memory was short: their seams may show"]
    assert [line for line in said["logged"] if line.startswith("out of memory in a step of")]
