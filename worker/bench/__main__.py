"""`python -m worker.bench`: measure this machine against diffusers. `farm bench` starts it."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farm.errors import FarmError
from farm.host.loglines import log_to_stderr
from worker.host.runtime import settle

if TYPE_CHECKING:
    from worker.models.device import Placement

GPU_ROWS = 64
SHAPES = ("sd14", "sdxl", "small-sdxl")
"""Those of `worker.bench.weights`, which takes long to import."""
_FEWEST_REPEATS = 3


@click.command(context_settings={"show_default": True})
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Write bench.json, bench.md and plots here."
)
@click.option("--seconds", type=click.FloatRange(30), default=280.0, help="Cut the workloads to about this much time.")
@click.option("--repeats", type=click.IntRange(_FEWEST_REPEATS), default=_FEWEST_REPEATS, help="Runs of every arm.")
@click.option("--device", help="cpu, cuda or cuda:N.  [default: the best there is]")
@click.option("--model", metavar="NAME=DIRECTORY", help="A model in diffusers' layout.  [default: emoji; see below]")
@click.option("--shape", type=click.Choice(SHAPES), help="Random weights of this shape, instead of a model.")
@click.option("--rows", type=click.IntRange(2, 1024), help="Rows of one forward.  [default: 32; 64 on a GPU]")
@click.option("--slots", type=click.IntRange(1, 1024), help="Jobs in flight at once.  [default: half the rows]")
@click.option("--whole", is_flag=True, help="Only one backlog by LMS, but of whole jobs: takes minutes.")
@click.option("--plots/--no-plots", default=True, help="Draw with matplotlib, if it is there.")
def main(
    out: Path | None,
    seconds: float,
    repeats: int,
    device: str | None,
    model: str | None,
    shape: str | None,
    rows: int | None,
    slots: int | None,
    whole: bool,
    plots: bool,
) -> None:
    """Compare the farm's engine with diffusers' pipelines on this machine, with the same weights.

    On a CPU the bundled model is used; on a GPU random weights of Stable Diffusion 1.4's shape.
    """
    settle()
    log_to_stderr(logging.INFO, "%(message)s")
    from diffusers.utils.logging import disable_progress_bar as silence_diffusers
    from transformers.utils.logging import disable_progress_bar as silence_transformers
    from transformers.utils.logging import set_verbosity_error

    silence_diffusers()
    silence_transformers()
    set_verbosity_error()
    try:
        found = _measure(seconds, repeats, device, model, shape, rows, slots, whole=whole)
        _write(found, out, plots=plots and not whole)
    except FarmError as error:
        click.echo(f"farm bench: {error.message}", err=True)
        if error.hint:
            click.echo(f"  {error.hint}", err=True)
        raise SystemExit(error.exit_code) from error


def _measure(
    seconds: float,
    repeats: int,
    device: str | None,
    named: str | None,
    shape: str | None,
    rows: int | None,
    slots: int | None,
    *,
    whole: bool,
) -> dict[str, Any]:
    from worker.bench.render import Comparison, Options
    from worker.engine.rows import ROWS
    from worker.models.device import place
    from worker.models.loader import ModelLoader
    from worker.models.registry import LocalDirectory

    placement = place(device)
    on_gpu = placement.device.type == "cuda"
    name, directory = _model(named, shape or ("sd14" if on_gpu else None))
    loaded = ModelLoader(placement, cache=directory).load(name, LocalDirectory(directory))
    rows = rows or (GPU_ROWS if on_gpu else ROWS)
    options = Options(seconds, repeats, rows, slots or max(1, rows // 2))
    machine = _machine(name, placement)
    comparison = Comparison(loaded, directory, placement, options)
    return {
        "machine": machine,
        "repeats": repeats,
        "rows": rows,
        "slots": options.slots,
        **({"whole": comparison.whole()} if whole else comparison.all()),
    }


def _model(named: str | None, shape: str | None) -> tuple[str, Path]:
    if named:
        name, _, directory = named.partition("=")
        return name, Path(directory)
    if shape:
        from worker.bench.weights import random_weights

        return f"random-{shape}", random_weights(shape)
    from worker.models.registry import BUILT_IN, LocalDirectory

    emoji = BUILT_IN["emoji"]
    assert isinstance(emoji, LocalDirectory)
    return "emoji", emoji.path


def _machine(name: str, placement: Placement) -> dict[str, Any]:
    import torch

    device = placement.device
    return {
        "model": name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine() + " CPU",
        "dtype": str(placement.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": ", ".join(f"{load:.1f}" for load in os.getloadavg()),
        "python": platform.python_version(),
        "torch": version("torch"),
        "diffusers": version("diffusers"),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _write(found: dict[str, Any], out: Path | None, *, plots: bool) -> None:
    from worker.bench.plots import draw
    from worker.bench.report import backlog, tables

    text = backlog("whole jobs, lms", found["whole"]) if "whole" in found else tables(found)
    _tell(text)
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    name = "whole" if "whole" in found else "bench"
    (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    if plots:
        draw(found, out)


def _tell(text: str) -> None:
    if not sys.stdout.isatty():
        return click.echo(text)
    from farm.cli.view.output import console
    from worker.bench.shown import shown

    console().print(shown(text))


if __name__ == "__main__":
    main()
