"""What a dead worker leaves behind, read by the next one; the dead are real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from worker.host.crash_report import BlackBox, left_behind

ENDS = {
    "crashes": "import ctypes; ctypes.string_at(0)",
    "is killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "hangs": "import os; box.write('the engine made no progress at here'); os._exit(75)",
    "ends in order": "box.close()",
}
TOLD = {
    "crashes": "ended with: Fatal Python error: Segmentation fault | Stack (most recent call first)",
    "is killed": "ended without a word: it was killed",
    "hangs": "ended with: the engine made no progress at here",
}


@pytest.mark.parametrize("end", ENDS)
def test_the_next_worker_tells_how_one_ended(tmp_path: Path, end: str) -> None:
    imports = "from pathlib import Path; from worker.host.crash_report import BlackBox"
    lives = f"{imports}; box = BlackBox(Path({str(tmp_path)!r}), 'w1')"
    subprocess.run([sys.executable, "-c", f"{lives}; {ENDS[end]}"], capture_output=True, timeout=120, check=False)

    told = dict(left_behind(tmp_path))

    assert told.keys() == ({"w1"} if end in TOLD else set())
    assert told.get("w1", "").startswith(TOLD.get(end, ""))
    assert dict(left_behind(tmp_path)) == {}, "each is told once"


def test_a_living_worker_is_not_told_of(tmp_path: Path) -> None:
    box = BlackBox(tmp_path, "alive")
    assert dict(left_behind(tmp_path)) == {}
    box.close()
