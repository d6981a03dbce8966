"""`farm bench`: what it runs."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from farm.cli.commands import worker
from farm.cli.main import farm


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that this process would have become."""
    lines: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda _, line: lines.append(line))
    return lines


def test_options_are_passed_on(executed: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "find_spec", lambda _: object())
    given = ["--seconds", "60.0", "--rows", "16", "--device", "cpu", "--whole", "--no-plots"]
    CliRunner().invoke(farm, ["bench", *given])

    assert executed == [[sys.executable, "-P", "-m", "worker.bench", *given]]


def test_without_torch_nothing_is_run(executed: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "find_spec", lambda name: None if name == "torch" else object())
    done = CliRunner().invoke(farm, ["bench"])

    assert done.exit_code == 1
    assert "torch missing" in done.output
    assert not executed
