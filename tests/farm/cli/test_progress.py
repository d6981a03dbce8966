"""What progress looks like: plain lines for pipes, bars for terminals."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from PIL import Image
from rich.console import Console

from farm.bucket.preview import Preview
from farm.cli.view.bars import Bars
from farm.cli.view.progress import Lines
from farm.cli.view.summary import short_names, tally
from farm.cli.view.thumbnails import COLUMNS, LINES
from farm.jobs.status import JobStatus, State


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


def previews_of(*statuses: JobStatus, size: tuple[int, int] = (8, 8)) -> dict[str, Preview]:
    picture = Image.new("RGB", size, (255, 0, 0))
    picture.paste((0, 0, 255), (0, size[1] // 2, *size))
    return {status.id: Preview(status.id, 1, status.step, (64, 64), picture) for status in statuses}


def test_pictures_are_drawn_below_the_bars_as_many_as_fit_side_by_side() -> None:
    screen = Console(
        file=io.StringIO(), width=2 * COLUMNS + 5, height=40, force_terminal=True, color_system="truecolor"
    )
    running = [status(index, "running", 15) for index in range(3)]
    bars = Bars(screen, previews=lambda: previews_of(*running))
    for one in running:
        bars.show(one)

    with screen.capture() as capture:
        screen.print(bars._screen())
    lines = capture.get().splitlines()

    assert len(lines) == len(running) + LINES + 1
    top, bottom = lines[len(running)], lines[len(running) + LINES - 2]
    assert top.count("▀") == bottom.count("▀") == 2 * COLUMNS
    assert "38;2;255;0;0" in top and "0;0;255" not in top
    assert "38;2;0;0;255" in bottom and "255;0;0" not in bottom
    captions = lines[len(running) + LINES - 1]
    assert running[0].id in captions and running[1].id in captions and running[2].id not in captions
    assert lines[-1].endswith("   no room for 1 preview")


def test_previews_are_counted_where_no_line_is_left_for_them(screen: Console) -> None:
    running = [status(index, "running", 15) for index in range(3)]
    bars = Bars(screen, previews=lambda: previews_of(*running))
    for one in running:
        bars.show(one)
    assert drawn(bars, screen)[-1].endswith("   no room for 3 previews")


@pytest.mark.parametrize(("size", "drawn"), [((8, 4), (COLUMNS, 8)), ((4, 8), (16, 16)), ((1, 64), (1, 16))])
def test_a_picture_keeps_its_shape(size: tuple[int, int], drawn: tuple[int, int]) -> None:
    screen = Console(file=io.StringIO(), width=100, height=40, force_terminal=True, color_system="truecolor")
    one = status(0, "running", 15)
    bars = Bars(screen, previews=lambda: previews_of(one, size=size))
    bars.show(one)

    with screen.capture() as capture:
        screen.print(bars._screen())

    pictured = [line.count("▀") for line in capture.get().splitlines() if "▀" in line]
    assert (pictured[0], len(pictured)) == drawn


def test_a_screen_too_low_for_pictures_has_the_bars_alone(screen: Console) -> None:
    one = status(0, "running", 15)
    bars = Bars(screen, previews=lambda: previews_of(one))
    bars.show(one)

    assert len(drawn(bars, screen)) == 2


def test_counts_are_in_the_order_of_the_states() -> None:
    assert tally([status(state="done"), status(state="queued"), status(state="done")]) == "1 queued · 2 done"


def test_jobs_are_named_as_short_as_can_be() -> None:
    assert short_names(["a-0000"]) == "a-0000"
    assert short_names(["a-0000", "a-0001", "b-0000"]) == "a b"
