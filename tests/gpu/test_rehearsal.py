"""The command that proves the farm on a GPU, rehearsed on the CPU: no line of it runs for the first time on a GPU.

Its parts, their processes and the workers are forked with all that they import, which would take each of them six
seconds. Where nothing is rendered, they are started as on a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from farm.stack.plan import PACKAGES
from tests.gpu.__main__ import SHARES
from tests.gpu.facts import Fact, Facts
from tests.gpu.page import page
from tests.launching import Forked

FORKED = """
from tests import forking
from tests.gpu import subjects
from tests.gpu.__main__ import main
from worker.bench import pipelines
forking.install()
main()
"""


def test_every_part_runs_and_holds(tmp_path: Path) -> None:
    arguments = ("--out", str(tmp_path), "--device", "cpu", "--minutes", "14")
    log = tmp_path / "printed"
    run = Forked(arguments, environment=dict(os.environ), log=log, folder=PACKAGES, script=FORKED)
    try:
        code = run.wait(900)
    finally:
        run.kill()
    printed = log.read_text(encoding="utf-8")
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))

    assert found["parts"].keys() == SHARES.keys()
    facts = {part: [Fact(**fact) for fact in facts] for part, facts in found["parts"].items()}
    assert not [fact for some in facts.values() for fact in some if fact.ok is False or "not run" in fact.note], printed
    assert {part for part, some in facts.items() if any(fact.ok for fact in some)} == SHARES.keys() - {"fast"}
    assert code == 0, "speed is asked of a GPU alone"
    assert "rehearsal" in found["machine"]["device"]
    told = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert all(fact.name in printed and fact.name in told for some in facts.values() for fact in some)


def test_a_part_that_cannot_run_is_told_and_the_next_one_is_tried(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpu", "--out", str(tmp_path), "--device", "cuda:99"]
    done = subprocess.run(
        [*command, "--only", "works", "--only", "right"], capture_output=True, encoding="utf-8", timeout=900
    )
    printed = done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))

    assert done.returncode == 1
    assert [fact["ok"] for part in ("works", "right") for fact in found["parts"][part]] == [False, False]
    assert "FAIL right" in printed
    assert "this machine has no device 'cuda:99'" in (tmp_path / "gpu.log").read_text(encoding="utf-8")


def told(capsys: pytest.CaptureFixture[str]) -> list[Fact]:
    return [fact for line in capsys.readouterr().out.splitlines() if (fact := Fact.read(line))]


def test_a_step_that_fails_is_a_fact(capsys: pytest.CaptureFixture[str]) -> None:
    facts = Facts(60)
    facts.attempt("one", lambda: dict[str, None]()["missing"])
    facts.attempt("two", lambda: facts.check("two holds", True, ratio=0.5))

    assert told(capsys) == [Fact("one", False, note="KeyError: 'missing'"), Fact("two holds", True, {"ratio": 0.5})]


def test_what_there_is_no_time_for_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    Facts(5).attempt("long", lambda: time.sleep(3600), seconds=30)

    (fact,) = told(capsys)
    assert fact.ok is None and fact.note.startswith("not run: ")


def test_the_page_tells_what_holds_and_what_does_not() -> None:
    facts = [
        {"name": "a|b", "ok": True, "figures": {"share_of_peak": 0.51234, "spread": [1.0, 2.0]}, "note": ""},
        {"name": "c", "ok": False, "figures": {}, "note": "KeyError: 'x'"},
    ]
    machine = {"device": "a card", "python": "3.12", "packages": {"torch": "2.13.0"}, "date": "2026-11-27"}
    text = page({"machine": machine, "seconds": 61.0, "parts": {"works": facts}})

    assert "| a/b | yes | share of peak 0.512; spread 1, 2 |" in text
    assert "| c | **no** | KeyError: 'x' |" in text
    assert "a card, Python 3.12, torch 2.13.0; 2026-11-27, 61 s." in text
