"""Where a worker keeps things: in a home that it can trust, or for itself alone."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.host.home import settle_home


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_home_is_made_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_HOME", str(tmp_path / "home"))
    assert settle_home() == tmp_path / "home"
    (tmp_path / "home" / "models").mkdir()
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "home" / "models").stat().st_mode) == 0o755


@pytest.mark.parametrize("named", ["open", "file", "file/home", "~nobody of that name"])
def test_without_one_a_worker_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "file").touch()
    monkeypatch.setenv("FARM_HOME", named)
    with caplog.at_level(logging.WARNING):
        folder = settle_home()
    assert folder.parent == tmp_path
    assert folder.name.startswith("farm-worker-")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    [said] = caplog.messages
    assert said.startswith("what this worker keeps is lost when it ends: ")
    assert "\n" not in said
