"""`farm schedule`: the numbers of a sampler's schedule, before anything is rendered by it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farm.cli.commands.worker import is_installed
from farm.cli.options.common import naming_options, schedule_options
from farm.cli.view.columns import Columns
from farm.cli.view.output import console, json_option, note, plural, print_json, say
from farm.cli.view.plotted import MARKS, plotted
from farm.errors import FarmError, InvalidInput
from farm.host.places import check_file, replacing
from farm.jobs.samplers import KNOWN, fault, read_sampler, read_schedule_name
from farm.jobs.spec import MAX_STEPS

if TYPE_CHECKING:
    from farm.jobs.schedule import Evaluation, ScheduleTold

_SVG = "--svg"
_KNOWN_HERE = ("sd14", "emoji")
_PLOT_WIDTH = 72
_SECONDS = 120
_SHOWN = (
    ("a", "a·x"),
    ("out", "out"),
    ("b0", "h"),
    ("b1", "h-1"),
    ("b2", "h-2"),
    ("b3", "h-3"),
    ("noise", "noise"),
)
"""Coefficients of a step, and what they are called in the table. The others say how x and the output are read."""


@click.command(
    epilog="""\b
    Examples:
      farm schedule
      farm schedule --sampler "DPM++ 2M Karras" --steps 20
      farm schedule --sampler lms --sampler heun --sampler dpmpp_2m --svg schedules.svg
      farm schedule --model /models/mine --start-step 12 --json | jq '.[0].levels[0].sigma'
    """
)
@click.option("--steps", type=click.IntRange(1, MAX_STEPS), default=15, show_default=True, help="Denoising steps.")
@schedule_options
@click.option("--start-step", type=click.IntRange(0), default=0, metavar="K", help="Begin at this step, as img2img.")
@click.option("--model", metavar="NAME", help="sd14, emoji, a folder, or a model of the farm.  [default: sd14]")
@click.option(_SVG, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw the noise levels.")
@json_option
def schedule(
    sampler: tuple[str, ...],
    schedule: str | None,
    eta: float | None,
    steps: int,
    start_step: int,
    model: str | None,
    svg: Path | None,
    as_json: bool,
) -> None:
    """Show the noise levels of a sampler's steps, and how each step combines what is at hand.

    Where torch and diffusers are installed, no farm is needed for sd14, emoji or a folder, and nothing is loaded. A
    worker tells of its models, and of any where those are not installed. A table for each --sampler:
    σ is noise over signal, α what is left of the picture, and the columns after it are the weights of x, the model's
    output, the newest prediction h and older ones, and fresh noise; a step of two evaluations has two lines. With
    --json: [{sampler, schedule, spacing, eta, prediction, steps, start_step, init_scale, levels, evaluations}].
    """
    if svg is not None:
        check_file(svg, option=_SVG)
    with naming_options():
        asked = [_asked(name, schedule, eta, steps, start_step) for name in sampler or ("lms",)]
        told = schedule_of(model, asked)
    if svg is not None:
        _draw(told, svg)
    if as_json:
        return print_json([one.model_dump(mode="json") for one in told])
    for one in told:
        say(_heading(one))
        console().print(_table(one))
        say("")
    _plot(told)
    if svg is not None:
        note(f"drawn: {svg}")


def schedule_of(model: str | None, asked: Sequence[Mapping[str, Any]]) -> list[ScheduleTold]:
    """What schedules are, each {sampler, steps, schedule, eta, start_step} of a model.

    This is the one place that knows who tells: this installation itself, or a worker. Raises `InvalidInput` and
    `FarmError`.
    """
    if is_installed() and (model in (None, *_KNOWN_HERE) or Path(model or "").is_dir()):
        return _told_here(model or _KNOWN_HERE[0], asked)
    return _told_by_worker(model, asked)


def _told_by_worker(model: str | None, asked: Sequence[Mapping[str, Any]]) -> list[ScheduleTold]:
    """Every schedule as a study. Raises what `FarmClient.ask` does."""
    from farm.client import FarmClient
    from farm.jobs.request import JobRequest

    if any(one["start_step"] for one in asked):
        raise InvalidInput("a worker tells of schedules from their first step on", field="start_step")
    fields = ("sampler", "schedule", "eta", "steps")
    requests = [
        JobRequest.parse({"mode": "schedule", "prompt": "", "model": model, **{name: one[name] for name in fields}})
        for one in asked
    ]
    with FarmClient.connect() as farm:
        return [farm.ask(request, on_warning=_warn).answer.value for request in requests]


def _warn(warning: str) -> None:
    note(f"warning: {warning}")


def _told_here(model: str, asked: Sequence[Mapping[str, Any]]) -> list[ScheduleTold]:
    from pydantic import TypeAdapter

    from farm.jobs.schedule import ScheduleTold

    done = subprocess.run(
        [sys.executable, "-P", "-m", "worker.models.schedules"],
        input=json.dumps([{"model": model, **one} for one in asked]),
        capture_output=True,
        encoding="utf-8",
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise FarmError(f"the schedule could not be computed: {last}", hint="try: python -m worker.models.schedules")
    answer = json.loads(done.stdout.splitlines()[-1])
    if isinstance(answer, dict):
        error = answer["error"]
        if error["field"] is None:
            raise FarmError(error["message"], hint=error["hint"])
        field = {"start.step": "start_step"}.get(error["field"], error["field"])
        raise InvalidInput(error["message"], field=field, hint=error["hint"])
    return TypeAdapter(list[ScheduleTold]).validate_python(answer)


def _asked(name: str, schedule: str | None, eta: float | None, steps: int, start_step: int) -> dict[str, Any]:
    """What is asked of one sampler, by any of its names. Raises `InvalidInput` for what no job can have."""
    named = read_sampler(name)
    spacing = named.schedule or read_schedule_name(schedule or "model")
    own_eta = eta if KNOWN[named.sampler].takes_eta else None
    if (why := fault(named.sampler, spacing, own_eta)) is not None:
        raise why
    return {
        "sampler": named.sampler,
        "schedule": spacing,
        "eta": own_eta,
        "steps": steps,
        "start_step": start_step,
    }


def _heading(told: ScheduleTold) -> str:
    eta = f", eta {told.eta:g}" if KNOWN[told.sampler].takes_eta else ""
    return (
        f"{_name(told)}: {plural(told.steps, 'step')}, {told.spacing}{eta}, {told.prediction}; "
        f"{plural(len(told.evaluations), 'evaluation')} of the model from step {told.start_step} on; "
        f"noise begins at {told.init_scale:.6g}"
    )


def _name(told: ScheduleTold) -> str:
    return told.sampler if told.schedule == "model" else f"{told.sampler} {told.schedule}"


def _table(told: ScheduleTold) -> Columns:
    shown = [(name, title) for name, title in _SHOWN if any(one.coefficients.get(name) for one in told.evaluations)]
    names = ("step", "timestep", "σ", "α", *(title for _, title in shown))
    table = Columns(*names, right=names)
    for level in told.levels[: told.start_step]:
        table.add(
            str(level.step), f"{level.timestep:.6g}", f"{level.sigma:.6g}", f"{level.alpha:.6g}", *("" for _ in shown)
        )
    for one in told.evaluations:
        table.add(*_placed(told, one), *(_figure(one.coefficients.get(name, 0.0)) for name, _ in shown))
    return table


def _placed(told: ScheduleTold, one: Evaluation) -> tuple[str, str, str, str]:
    """The step of an evaluation, and where it takes place."""
    if one.evaluation == 1:
        level = told.levels[one.step]
        return str(one.step), f"{level.timestep:.6g}", f"{level.sigma:.6g}", f"{level.alpha:.6g}"
    sigma = one.coefficients.get("sigma", 0.0)
    return "", f"{one.coefficients.get('timestep', 0.0):.6g}", f"{sigma:.6g}", f"{(1 + sigma**2) ** -0.5:.6g}"


def _figure(value: float) -> str:
    return f"{value:.5g}" if value else ""


def _plot(told: Sequence[ScheduleTold]) -> None:
    curves = [[(level.step, level.sigma) for level in one.levels] for one in told]
    say(*plotted(curves, width=min(_PLOT_WIDTH, console().width)))
    say("σ by step: " + ", ".join(f"{mark} {_name(one)}" for mark, one in zip(MARKS * len(told), told, strict=False)))


def _draw(told: Sequence[ScheduleTold], file: Path) -> None:
    from farm.pages.html import drawing
    from farm.pages.plot import Plot, Series

    plot = Plot(
        "schedule",
        "Noise levels",
        "σ/α at the steps of each sampler's schedule, on a logarithmic scale.",
        tuple(Series(_name(one), [(level.step, level.sigma) for level in one.levels]) for one in told),
        0,
        max(one.steps for one in told) - 1,
        log=True,
    )
    with replacing(file, option=_SVG) as unfinished:
        unfinished.write_text(drawing(plot), encoding="utf-8")
