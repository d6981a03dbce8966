"""A short soak: everything at once. `make soak MINUTES=…` runs longer ones."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

from farm.stack.plan import PACKAGES
from tests.faults.processes import working_in
from tests.faults.sabotage import SABOTAGE
from tests.faults.soak import Soak
from tests.launching import Forked
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


# As `python -m tests.faults.soak`, in a process that may have asked for the folder of temporary files before.
SOAK = """
import runpy, tempfile
tempfile.tempdir = None
runpy.run_module("tests.faults.soak", run_name="__main__")
"""


def test_ctrl_c_ends_all_that_a_soak_has_started(tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder)}
    soak = Forked(("--minutes", "60"), environment=environment, log=tmp_path / "log", folder=PACKAGES, script=SOAK)
    try:
        eventually(lambda: len(working_in(folder)) >= 2, "its servers run", within=120)

        soak.send_signal(signal.SIGINT)

        assert soak.wait(120) == 130
        eventually(lambda: not working_in(folder), "nothing is left")
        assert not list(folder.iterdir())
    finally:
        soak.kill()
        soak.wait()
