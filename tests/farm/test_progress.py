"""What progress looks like: plain lines for pipes, bars for terminals."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from farm.cli.bars import Bars
from farm.cli.progress import Lines, short_names, tally
from farm.jobs import JobStatus, State


def status(index: int = 0, state: State = "running", step: int = 0) -> JobStatus:
    return JobStatus(
        id=f"{'0' * 16}-{index:04d}",
        batch="0" * 16,
        state=state,
        step=step,
        steps=30,
        attempt=1,
        worker="w1",
        model="emoji",
        priority=5,
        submitted=datetime.now(UTC),
        started=None,
        finished=None,
        error=None,
        result=None,
        prompt=f"prompt {index}",
        labels={},
        warnings=(),
    )


def test_lines_are_printed_for_states_and_quarters(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for state, steps in (("queued", [0]), ("running", range(31)), ("done", [30])):
        for step in steps:
            lines.show(status(state=state, step=step))  # type: ignore[arg-type]
    said = [line.partition("  ")[2] for line in capsys.readouterr().out.splitlines()]
    assert said == ["queued", "running", "running  8/30", "running  15/30", "running  23/30", "running  30/30", "done"]


def drawn(bars: Bars, console: Console) -> list[str]:
    with bars.showing():
        pass
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.fixture
def screen() -> Console:
    return Console(file=io.StringIO(), width=100, height=13, force_terminal=False)


def test_bars_show_each_job_with_its_step(screen: Console) -> None:
    bars = Bars(screen)
    bars.show(status(0, "running", 15))
    bars.show(status(1, "queued"))
    first, second, summary = drawn(bars, screen)
    assert first.startswith(f"{'0' * 16}-0000") and "15/30" in first and first.endswith("prompt 0")
    assert "0/30" in second and "queued" in second
    assert summary.startswith("1 queued · 1 running")


def test_no_more_bars_than_the_screen_holds_and_running_ones_first(screen: Console) -> None:
    bars = Bars(screen)
    for index in range(1_000):
        bars.show(status(index, "running" if index == 999 else "queued"))
    *rows, summary = drawn(bars, screen)
    assert len(rows) == 10
    assert rows[-1].startswith(f"{'0' * 16}-0999")
    assert summary.startswith("999 queued · 1 running") and summary.endswith("and 990 more not shown")


def test_counts_are_in_the_order_of_the_states() -> None:
    assert tally([status(state="done"), status(state="queued"), status(state="done")]) == "1 queued · 2 done"


def test_jobs_are_named_as_short_as_can_be() -> None:
    assert short_names(["a-0000"]) == "a-0000"
    assert short_names(["a-0000", "a-0001", "b-0000"]) == "a b"
