"""The program that tells schedules to a farm's command: what it reads and what it writes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import build_tiny_model
from worker.models import schedules


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *asked: dict[str, Any]) -> Any:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(asked)))
    schedules.main()
    return json.loads(capsys.readouterr().out)


def test_models_here_are_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    directory = build_tiny_model(tmp_path / "tiny", prediction_type="v_prediction")
    asked = [{"model": model, "sampler": "lms", "steps": 5} for model in ("sd14", "emoji", str(directory))]

    published, emoji, tiny = told(monkeypatch, capsys, *asked)

    assert (published["spacing"], emoji["spacing"], tiny["spacing"]) == ("linspace", "karras", "linspace")
    assert (published["prediction"], tiny["prediction"]) == ("epsilon", "v_prediction")
    assert published["levels"][0]["sigma"] == pytest.approx(14.6146, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "nowhere"}, {"message": "there is no schedule of the model 'nowhere' here", "field": None}),
        ({"steps": 2_000}, {"message": "2000 is not between 1 and the 1000 steps", "field": "steps"}),
        ({"sampler": "lcm", "steps": 60}, {"message": "60 is more than the 50 steps", "field": "steps"}),
        ({"start_step": 9}, {"message": "9 is not a step from 0 to 4", "field": "start.step"}),
    ],
)
def test_what_cannot_be_told_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: dict[str, Any], error: dict[str, Any]
) -> None:
    said = told(monkeypatch, capsys, {"model": "sd14", "sampler": "lms", "steps": 5, **change})["error"]
    assert said["message"].startswith(error["message"])
    assert said["field"] == error["field"]
