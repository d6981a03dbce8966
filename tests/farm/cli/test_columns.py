"""Tables and bars at every width: what gives way, and what never does."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from farm.cli.commands.losses import _table_of_losses
from farm.cli.commands.models import _table as _table_of_models
from farm.cli.commands.models import _told
from farm.cli.commands.workers import _table as _table_of_workers
from farm.cli.view.bars import Bars
from farm.cli.view.jobs import table_of
from farm.cli.view.output import console
from farm.client.services import ModelService
from farm.jobs.losses import BUILTIN
from farm.jobs.status import STATES, JobStatus, State
from tests.ledgers import a_worker

WIDTHS = (40, 60, 80, 120)
PROMPT = "ein Aquarell 水彩画 of an otter that goes on and on, so that no terminal shows all of it in one line" * 2


def a_job(index: int, state: State) -> JobStatus:
    return JobStatus(
        id=f"{'0' * 16}-{index:04d}",
        batch="0" * 16,
        state=state,
        step=18,
        steps=30,
        attempt=1,
        worker="w1",
        model="emoji",
        priority=5,
        submitted=datetime.now(UTC) - timedelta(hours=23),
        started=None,
        finished=None,
        error=None,
        result=None,
        prompt=PROMPT,
        labels={},
        warnings=(),
    )


JOBS = [a_job(index, state) for index, state in enumerate(STATES)]


def lines_of(table: RenderableType, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=40, highlight=False)
    with console.capture() as capture:
        console.print(table)
    lines = capture.get().splitlines()
    assert max(map(cell_len, lines)) <= width
    return lines


def test_priorities_are_listed_where_one_that_waits_or_runs_has_another_than_most() -> None:
    over = [job.model_copy(update={"priority": 9}) for job in JOBS if job.is_over]
    assert "priority" not in lines_of(table_of([*JOBS[:2], *over]), 120)[0]

    urgent = JOBS[0].model_copy(update={"priority": 8})
    heading, *rows = lines_of(table_of([urgent, JOBS[1], *over]), 120)
    assert heading.split() == ["job", "state", "step", "priority", "age", "model", "prompt"]
    assert [row.split()[3] for row in rows] == ["8", *["23"] * (len(JOBS) - 1)]
    assert lines_of(table_of([urgent]), 60)[0].split() == ["job", "state", "step", "priority", "prompt"]
    assert lines_of(table_of([urgent]), 40)[0].split() == ["job", "state", "step"]


@pytest.mark.parametrize(
    ("width", "names"),
    [
        (40, "job state step"),
        (60, "job state step age prompt"),
        (80, "job state step age model prompt"),
        (120, "job state step age model prompt"),
    ],
)
def test_jobs_are_listed_with_what_the_width_has_room_for(width: int, names: str) -> None:
    heading, *rows = lines_of(table_of(JOBS), width)
    assert heading.split() == names.split()
    for row, job in zip(rows, JOBS, strict=True):
        assert row.split()[:3] == [job.id, job.state, "18/30"]
    if "age" in names:
        assert all("23 h" in row for row in rows)
    if "model" in names:
        assert all("emoji" in row for row in rows)
    if "prompt" in names:  # it has all that the others leave
        assert all(row.endswith("…") and cell_len(row) >= width - 1 for row in rows)


def test_a_width_for_no_two_columns_has_one_below_the_other_and_nothing_cut() -> None:
    lines = lines_of(table_of(JOBS[:1]), 24)
    assert lines == [JOBS[0].id, f"  state: {JOBS[0].state}"]
    assert "".join(lines_of(table_of(JOBS[:1]), 12)[:2]) == JOBS[0].id


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_ends_in_blanks(width: int) -> None:
    jobs = [JOBS[0].model_copy(update={"prompt": prompt}) for prompt in ("x", "a much longer prompt", "")]
    assert not [line for line in lines_of(table_of(jobs), width) if line != line.rstrip()]


@pytest.mark.parametrize(("told", "width"), [("72", 72), (None, 200), ("wide", 200)])
def test_a_pipe_has_the_width_that_it_is_told(monkeypatch: pytest.MonkeyPatch, told: str | None, width: int) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if told:
        monkeypatch.setenv("COLUMNS", told)
    assert console().width == width


def test_short_cells_take_no_more_than_they_need() -> None:
    assert lines_of(table_of([JOBS[0].model_copy(update={"prompt": "x"})]), 120)[1].endswith("  emoji  x")


@pytest.mark.parametrize("width", WIDTHS)
def test_bars_show_ids_steps_and_states_whole(width: int) -> None:
    screen = Console(file=io.StringIO(), width=width, height=40)
    bars = Bars(screen)
    for job in JOBS:
        bars.show(job)
    rows = lines_of(bars._screen(), width)
    for row, job in zip(rows, JOBS, strict=False):
        assert job.id in row and job.state in row.split() and "18/30" in row.split()
    assert ("━" in rows[0]) == (width > 40)
    assert ("ein" in rows[0]) == (width > 60)


LIVE = [
    a_worker(id="render-7f8d9c-abcde", device="NVIDIA H100 80GB HBM3", models=("emoji", "sd14", "a-model-with-a-name")),
    a_worker(id="w2", state="draining", models=("emoji",)),
]


@pytest.mark.parametrize("width", WIDTHS)
def test_no_worker_state_or_model_is_cut(width: int) -> None:
    heading, *rows = lines_of(_table_of_workers(LIVE), width)
    shown = "\n".join(rows)
    assert "…" not in shown
    assert all(worker.id in shown and worker.state in shown for worker in LIVE)
    if "models" in heading.split():
        assert all(name in shown for worker in LIVE for name in worker.models)
    assert width < 80 or {"jobs", "models"} <= set(heading.split())


@pytest.mark.parametrize("width", WIDTHS)
def test_no_model_that_is_waited_for_is_cut(width: int) -> None:
    service = ModelService("a-model-with-a-name", ("render-7f8d9c", "render-abcde", "w2"), 12_345, warm=("w2",))
    shown = "\n".join(lines_of(_table_of_models([_told(service.name, service, None)]), width))
    assert "…" not in shown
    assert all(word in shown for word in ("a-model-with-a-name", "12,345", "render-7f8d9c", "render-abcde", "w2"))


@pytest.mark.parametrize("width", WIDTHS)
def test_losses_name_their_arguments_and_numbers_whole(width: int) -> None:
    heading, *rows = lines_of(_table_of_losses(BUILTIN), width)
    shown = words(rows)
    assert "…" not in "".join(rows)
    for loss in BUILTIN:
        assert loss.name in shown
        assert ("scale" not in heading) or f"{loss.default_scale:g}" in shown
        for argument in loss.arguments:
            assert argument.name in shown and f"{argument.default:g}" in shown
    if width >= 60:
        assert set(BUILTIN[0].help.split()) <= set(shown)


def words(rows: Sequence[str]) -> list[str]:
    return re.split(r"\s+", " ".join(rows))
