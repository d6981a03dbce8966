"""A short soak: everything at once. `make soak MINUTES=…` runs longer ones."""

from __future__ import annotations

import random
from pathlib import Path

from tests.faults.sabotage import SABOTAGE
from tests.faults.soak import Soak

MINUTES = 0.6


def test_nothing_is_lost_doubled_or_unexplained(tmp_path: Path, chance: random.Random) -> None:
    report = Soak(tmp_path, MINUTES, chance.randrange(10**6)).run()

    print(report)
    assert not report.complaints, str(report)
    assert (report.lost, report.duplicated) == (0, 0)
    assert report.states["done"] > 10
    assert len(report.faults) >= len(SABOTAGE), "faults were injected"
    assert any(one.worst_seconds is not None for one in report.faults), "jobs were in hand"
