"""A short soak: everything at once. `make soak MINUTES=…` runs longer ones."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from farm.stack.plan import PACKAGES
from tests.faults.processes import working_in
from tests.faults.sabotage import SABOTAGE
from tests.faults.soak import Soak
from tests.timing import SHORT
from tests.waiting import eventually

MINUTES = 0.4


def test_nothing_is_lost_doubled_or_unexplained(tmp_path: Path, chance: random.Random) -> None:
    report = Soak(tmp_path, MINUTES, chance.randrange(10**6), SHORT, outstanding=15, pause=2.0).run()

    print(report)
    assert not report.complaints, str(report)
    assert (report.lost, report.duplicated) == (0, 0)
    assert report.states["done"] > 5
    assert len(report.faults) >= len(SABOTAGE), "faults were injected"
    assert any(one.worst_seconds is not None for one in report.faults), "jobs were in hand"


def test_ctrl_c_ends_all_that_a_soak_has_started(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.faults.soak", "--minutes", "60"]
    soak = subprocess.Popen(command, cwd=PACKAGES, env={**os.environ, "TMPDIR": str(tmp_path)})
    try:
        eventually(lambda: len(working_in(tmp_path)) >= 2, "its servers run", within=120)

        soak.send_signal(signal.SIGINT)

        assert soak.wait(120) == 130
        eventually(lambda: not working_in(tmp_path), "nothing is left")
        assert not list(tmp_path.iterdir())
    finally:
        soak.kill()
        soak.wait()
