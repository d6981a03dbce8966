"""A picture made again, by a worker whose bytes depend on nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from farm.client import FarmClient
from tests.integration.conftest import Launcher

Shell = Callable[..., Any]


def test_a_picture_is_made_again(
    shell: Shell, launch: Launcher, client: FarmClient, picture: Path, tmp_path: Path
) -> None:
    launch("careful", "--deterministic", model="careful")
    fields = ["--model", "careful", "--steps", "8", "--seed", "3", "--out", "renders", "--json"]
    guided = ["--init", str(picture), "--strength", "0.5", "--loss", "blue", "--encode", "mean", "--guidance", "0.5"]
    first = json.loads(shell("submit", "txt2img", "a cat", *guided, *fields).stdout.splitlines()[0])["jobs"][0]
    file = tmp_path / "renders" / f"{first}.png"

    for source in (first, str(file)):
        told = json.loads(shell("rerun", source, "--wait", "--json").stdout.splitlines()[-1])
        assert told["same_bytes"] is True, told
        again = client.result(told["job"])
        assert again.spec == client.result(first).spec
        assert again.losses == client.result(first).losses and again.losses.keys() == {"blue"}
    assert client.ledger.get(first).losses == {"blue": again.losses["blue"][-1][1]}
    assert "losses     blue 0." in shell("status", first).stdout
    assert shell("rerun", first, "--wait").stdout.splitlines()[-1].endswith("  the same bytes")

    changed = json.loads(
        shell("rerun", first, "--set", "steps=9", "--set", "guidance=3", "--wait", "--json").stdout.splitlines()[0]
    )
    spec = client.result(changed["jobs"][0]).spec
    assert (spec.steps, spec.guidance.scale, spec.seed, spec.start.encode) == (9, 3, 3, "mean")


def test_what_is_no_picture_of_the_farm_is_refused(shell: Shell, picture: Path) -> None:
    assert "does not say how it was made" in shell("rerun", str(picture), code=2).stderr
    assert "farm: --set: 'steps' is not FIELD=VALUE" in shell("rerun", str(picture), "--set", "steps", code=2).stderr
    assert "farm: nowhere.png cannot be read: No such file" in shell("rerun", "nowhere.png", code=2).stderr
    assert "farm: no job or batch is called 'nowhere'" in shell("rerun", "nowhere", code=1).stderr
