"""`farm schedule`: the numbers that a worker tells, as a table, a plot, JSON and SVG."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from farm.cli.commands import schedule as command
from farm.cli.commands.schedule import schedule
from farm.cli.view.plotted import MARKS, plotted
from farm.errors import InvalidInput
from farm.jobs.samplers import SAMPLERS
from farm.jobs.schedule import ScheduleTold
from tests import launching
from tests.environments import of_a_shell
from worker.diffusion.told import schedule_told
from worker.models.schedules import SD_1_4

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Sequence[Mapping[str, Any]]]]:
    """What was asked for; it is answered by real numbers of Stable Diffusion 1.4."""
    heard: list[tuple[str, Sequence[Mapping[str, Any]]]] = []

    def answer(model: str, wanted: Sequence[Mapping[str, Any]]) -> list[ScheduleTold]:
        heard.append((model, wanted))
        return [schedule_told(SD_1_4, **one) for one in wanted]

    monkeypatch.setattr(command, "schedule_of", answer)
    return heard


def run(*arguments: str) -> Result:
    return CliRunner().invoke(schedule, arguments, catch_exceptions=False)


def test_the_table_has_the_documents_numbers(asked: list[Any]) -> None:
    lines = run().output.splitlines()

    assert asked == [(None, [{"sampler": "lms", "schedule": "model", "eta": None, "steps": 15, "start_step": 0}])]
    assert lines[0].startswith("lms: 15 steps, linspace, epsilon; 15 evaluations of the model from step 0 on")
    assert lines[1].split() == ["step", "timestep", "σ", "α", "a·x", "h", "h-1", "h-2", "h-3"]
    assert lines[2].split() == ["0", "999", "14.6146", "0.0682649", "1", "-4.9321"]
    assert lines[4].split() == ["2", "856.286", "6.67802", "0.148094", "1", "-2.831", "1.1253", "-0.19777"]
    assert lines[16].split()[:3] == ["14", "0", "0.0291675"]
    assert lines[-1] == "σ by step: o lms"


def test_a_step_of_two_evaluations_has_two_lines(asked: list[Any]) -> None:
    lines = run("--sampler", "DPM++ SDE", "--steps", "3", "--start-step", "1").output.splitlines()
    assert "3 evaluations of the model from step 1 on" in lines[0]
    assert lines[1].split()[-1] == "noise"
    assert [line.split()[0] for line in lines[2:6]] == ["0", "1", "46.7252", "2"]


def test_several_samplers_are_laid_over_one_another(asked: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "levels.svg"
    output = run("--sampler", "lms", "--sampler", "DPM++ 2M Karras", "--steps", "8", "--svg", str(file)).output

    [(_, (first, second))] = asked
    assert (first["sampler"], second["sampler"], second["schedule"]) == ("lms", "dpmpp_2m", "karras")
    assert "σ by step: o lms, x dpmpp_2m karras" in output
    drawn = ElementTree.parse(file).getroot()
    assert drawn.tag == f"{SVG}svg"
    assert len(drawn.findall(f".//{SVG}polyline")) == 2
    assert len(drawn.findall(f".//{SVG}circle")) == 16
    assert {text.text for text in drawn.iter(f"{SVG}text")} >= {"lms", "dpmpp_2m karras"}


def test_json_is_what_was_told(asked: list[Any]) -> None:
    told = json.loads(run("--sampler", "unipc", "--steps", "4", "--json").output)
    assert [ScheduleTold.model_validate(one) for one in told] == [schedule_told(SD_1_4, "unipc", 4)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sampler", "magic"], "--sampler: there is no sampler 'magic'"),
        (["--schedule", "odd"], "--schedule: there is no schedule 'odd'"),
        (["--sampler", "ddim", "--schedule", "karras"], "--schedule: 'ddim' does not follow the schedule 'karras'"),
    ],
)
def test_what_cannot_be_is_refused_by_the_options_name(asked: list[Any], arguments: list[str], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        run(*arguments)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("installed", "arguments", "asked_for"),
    [(False, (), None), (False, ("--model", "sd14"), "sd14"), (True, ("--model", "mine"), "mine")],
)
def test_a_worker_is_asked_for_what_is_not_known_here(
    monkeypatch: pytest.MonkeyPatch, installed: bool, arguments: tuple[str, ...], asked_for: str | None
) -> None:
    heard = []

    def answer(model: str | None, wanted: Sequence[Mapping[str, Any]]) -> list[ScheduleTold]:
        heard.append(model)
        return [schedule_told(SD_1_4, **one) for one in wanted]

    monkeypatch.setattr(command, "_told_by_worker", answer)
    monkeypatch.setattr(command, "is_installed", lambda: installed)
    assert "lms: 15 steps" in run(*arguments).output
    assert heard == [asked_for]


def test_a_worker_tells_from_the_first_step_on() -> None:
    with pytest.raises(InvalidInput, match="a worker tells of schedules from their first step on"):
        run("--model", "of the farm", "--start-step", "3")


@pytest.mark.long
def test_this_installation_tells_it(tmp_path: Path) -> None:
    shell = partial(launching.farm, "schedule", environment=of_a_shell(tmp_path / "home"), folder=tmp_path)
    [told] = json.loads(shell("--sampler", "Euler a", "--eta", "0.5", "--steps", "3", "--json").stdout)
    assert told == schedule_told(SD_1_4, "euler_a", 3, eta=0.5).model_dump(mode="json")
    refused = shell("--steps", "3", "--start-step", "3")
    assert refused.returncode == 2
    assert refused.stderr.startswith("farm: --start-step: 3 is not a step from 0 to 2")


def test_a_plot_has_its_ends_where_they_are() -> None:
    lines = plotted([[(0, 10.0), (1, 1.0), (2, 0.0)], [(0, 10.0), (2, 0.1)]], width=40)
    assert lines[0].startswith("     10 |o")
    assert lines[-2].startswith("    0.1 |") and lines[-2].endswith("x")
    assert lines[-1].split() == ["0", "2"]
    assert max(map(len, lines)) <= 40
    assert plotted([[(0, 0.0)]], width=40) == []


def test_each_sampler_is_drawn_with_a_sign_of_its_own() -> None:
    assert len(set(MARKS)) == len(MARKS) >= len(SAMPLERS)
