"""Memory that runs out in the middle of a batch."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests import launching
from tests.tiny import build_tiny_model


def test_a_batch_that_does_not_fit_is_made_smaller_and_only_a_job_that_cannot_fit_alone_fails(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "tiny")
    script = "import sys; from pathlib import Path; from tests.faults import scarce; scarce.main(Path(sys.argv[1]))"
    done = launching.run([str(model)], environment=os.environ, script=script, timeout=300)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)

    ends = said["ends"]
    assert {name: end for name, end in ends.items() if end != "done"} == {"huge": "memory"}
    assert len(ends) == 26
    assert said["warnings"] == ["the picture was decoded in tiles, because memory was short: their seams may show"]
    assert [line for line in said["logged"] if line.startswith("out of memory in a step of")]
