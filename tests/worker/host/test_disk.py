"""The folders of jobs on a worker's disk: who is gone leaves none for ever."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from worker.host import disk

LONG_AGO = 1e9


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_only_what_nobody_holds_is_removed(temporary: Path) -> None:
    kept = {name: temporary / name for name in ("another", "farm-job-young", "aside")}
    for folder in (*kept.values(), temporary / "farm-job-left"):
        folder.mkdir()
        (folder / "trace").write_text("x", encoding="utf-8")
    (temporary / "farm-job-link").symlink_to(kept["aside"])
    with disk.workspace() as going_on:
        for folder in (going_on, temporary / "farm-job-left", kept["another"], kept["aside"]):
            os.utime(folder, (LONG_AGO, LONG_AGO))
        disk.remove_left_behind()
        assert {*temporary.iterdir()} == {*kept.values(), going_on, temporary / "farm-job-link"}
        assert (kept["aside"] / "trace").exists()
    assert not going_on.exists()
