"""The whole comparison, cut to seconds: its figures, tables and plots."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny import build_tiny_model
from worker.bench import costing, render
from worker.bench.plots import draw
from worker.bench.render import ENGINE, MEMOISED, PIPELINE, SWITCHING, UNADAPTED, Comparison, Options
from worker.bench.report import backlog, tables
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.registry import LocalDirectory

pytestmark = pytest.mark.long


def test_figures_tables_and_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in ((render, "_FEWEST", 3), (render, "_SHORTEST", 0.1), (costing, "ARRIVALS", 50)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(render, "ALIKE_STEPS", 3)
    monkeypatch.setattr(render, "ADAPTED_JOBS", 3)
    directory = build_tiny_model(tmp_path / "tiny")
    model = ModelLoader(place("cpu"), cache=tmp_path).load("tiny", LocalDirectory(directory))

    figures = Comparison(model, directory, place("cpu"), Options(seconds=1, repeats=2, rows=8, slots=4)).all()
    found = json.loads(json.dumps({"machine": MACHINE, "repeats": 2, **figures}))

    lms = found["backlog"]["lms"]
    assert lms["jobs"] == 3
    assert {PIPELINE, MEMOISED, ENGINE} <= lms["arms"].keys()
    assert lms["ratios"][PIPELINE]["wall"]["least"] <= lms["ratios"][PIPELINE]["wall"]["most"]
    assert 0 <= lms["arms"][ENGINE]["difference_to_alone"] <= 1
    assert 0 <= lms["arms"][ENGINE]["difference_to_diffusers"] <= 1
    assert found["not_run"], "what a CPU cannot show is named"
    assert {ENGINE, UNADAPTED, SWITCHING} == found["adapters"]["arms"].keys()
    for text in (f"| {PIPELINE} |", "Poisson arrivals", "Alike jobs", f"| {SWITCHING} |"):
        assert text in tables(found)
    assert all(path.read_text(encoding="utf-8").startswith("<?xml") for path in draw(found, tmp_path))


def test_a_backlog_of_whole_jobs(tmp_path: Path) -> None:
    directory = build_tiny_model(tmp_path / "tiny")
    model = ModelLoader(place("cpu"), cache=tmp_path).load("tiny", LocalDirectory(directory))

    figures = Comparison(model, directory, place("cpu"), Options(seconds=1, repeats=1, rows=8, slots=4)).whole(1)

    assert figures["steps"][0] >= 20, "nothing is cut"
    assert figures["arms"].keys() == {PIPELINE, MEMOISED, ENGINE}
    assert f"| {PIPELINE} |" in backlog("whole jobs, lms", figures)


MACHINE = {
    "model": "tiny",
    "device": "a CPU",
    "dtype": "float32",
    "threads": 1,
    "torch": "2",
    "diffusers": "0",
    "date": "today",
    "load": "0",
}
