"""The demonstration: what it submits, and that it works from end to end, twice."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from farm import stack
from farm.client.planning import dry_run
from farm.demo import Timings, grid, local_farm, requests
from tests import launching
from tests.environments import of_a_shell

# The demonstration, over sooner: of fewer steps, but where a job starts from a step, and of one job.
OF_FEW_STEPS = """
from farm import demo
whole = demo.requests
demo.requests = lambda: [job if job.start_step else job.model_copy(update={"steps": 5}) for job in whole()]
"""
OF_ONE_JOB = f"""{OF_FEW_STEPS}
few = demo.requests
demo.requests = lambda: few()[:1]
"""


def test_it_shows_every_mode_and_what_the_project_began_with() -> None:
    specs = [job.spec for job in dry_run(requests())]
    otter, giraffe, apple, lion, *_ = specs
    assert len(specs) == 12
    assert Counter(spec.mode for spec in specs) == {"txt2img": 9, "mix": 1, "img2img": 1, "guided": 1}
    assert otter.trace.level == "video"
    assert [prompt.weight for prompt in giraffe.conditioning.prompts] == [0.5, 0.5]
    assert (apple.start.step, apple.steps) == (12, 30)
    assert lion.guidance.losses[0].name == "blue"


def test_it_shows_the_same_everywhere() -> None:
    assert [job.spec for job in dry_run(requests())] == [job.spec for job in dry_run(requests())]


def test_its_grid_starts_from_three_steps_under_two_scales() -> None:
    specs = [job.spec for job in dry_run(grid())]
    assert [(spec.start.step, spec.guidance.scale) for spec in specs] == [
        *((step, 1.0) for step in (6, 12, 18)),
        *((step, 4.0) for step in (6, 12, 18)),
    ]


@pytest.mark.farm
@pytest.mark.parametrize("keep", [True, False])
def test_its_farm_stays_only_if_asked(keep: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "a home"
    monkeypatch.setattr(stack, "start_detached", partial(stack.start_detached, workers=0))
    try:
        with local_farm(home, Timings(), keep=keep):
            assert stack.status(home) is not None
        assert (stack.status(home) is not None) == keep
    finally:
        stack.stop(home)


@pytest.mark.farm
def test_its_farm_does_not_stay_after_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "a home"
    monkeypatch.setattr(stack, "start_detached", partial(stack.start_detached, workers=0))
    with pytest.raises(KeyboardInterrupt), local_farm(home, Timings(), keep=True):
        raise KeyboardInterrupt
    assert stack.status(home) is None


@pytest.mark.long
def test_it_works_twice_in_a_path_with_spaces(tmp_path: Path) -> None:
    home, folder = tmp_path / "a home", tmp_path / "a folder"
    folder.mkdir()
    try:
        first = farm("demo", "--keep", home=home, folder=folder, before=OF_FEW_STEPS)
        assert first.startswith(f"starting a farm in {home}\n")
        running = stack.status(home)
        assert running is not None
        assert pictures(folder) == 12
        sheet, grid = folder / "renders" / "sheet.png", folder / "renders" / "grid.png"
        with Image.open(grid) as page:
            assert page.width > 3 * 128
        [trace] = (folder / "renders").glob("*.trace.html")
        assert "a watercolor painting of an otter" in trace.read_text(encoding="utf-8")
        with Image.open(sheet) as page:
            assert page.width == 80 + 4 * 256 + 3 * 24
        first_sheet = sheet.read_bytes()
        second = farm("demo", home=home, folder=folder, before=OF_ONE_JOB)
        assert second.startswith(f"using the farm in {home}\n")
        assert stack.status(home) == running
        assert pictures(folder) == 13
        assert sheet.read_bytes() != first_sheet
        assert len(list((folder / "renders").glob("*/*.mp4"))) == 2
        assert farm("down", home=home, folder=folder) == "stopped\n"
        assert stack.status(home) is None
    finally:
        stack.stop(home)


def pictures(folder: Path) -> int:
    """How many lie beside the two sheets."""
    return len(list((folder / "renders").glob("*.png"))) - 2


def farm(*arguments: str, home: Path, folder: Path, before: str = "") -> str:
    answer = launching.farm(*arguments, environment=of_a_shell(home), folder=folder, before=before)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout
