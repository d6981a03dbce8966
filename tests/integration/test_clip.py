"""A worker whose operator has a CLIP knows one loss more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from farm.client import FarmClient
from tests import launching
from tests.integration.conftest import Launcher
from tests.tiny import build_tiny_clip

Shell = Callable[..., Any]


def test_a_picture_is_guided_by_clip(shell: Shell, launch: Launcher, client: FarmClient, tmp_path: Path) -> None:
    launch("seeing", model="seeing", FARM_CLIP=str(build_tiny_clip(tmp_path / "clip")))

    assert "one minus CLIP's similarity" in shell("losses").stdout
    told = shell("submit", "guided", "a cat", "--loss", "clip", "--loss-every", "2", "--steps", "4", "--wait", "--json",
                 "--model", "seeing")  # fmt: skip
    [job] = json.loads(told.stdout.splitlines()[0])["jobs"]
    values = dict(client.result(job).losses["clip"])
    assert values.keys() == {0, 2} and all(0 <= value <= 2 for value in values.values())


def test_a_worker_whose_clip_is_not_there_says_so_and_ends(environment: dict[str, str], tmp_path: Path) -> None:
    nowhere = {**environment, "FARM_CLIP": str(tmp_path / "nowhere")}
    told = launching.run(("--device", "cpu", "--name", "blind"), environment=nowhere)
    assert told.returncode == 1
    assert f"there is no CLIP in {tmp_path / 'nowhere'}" in told.stderr
    assert "Traceback" not in told.stderr
