"""`farm bench`: compare the engine with diffusers on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from farm.cli.commands.worker import check_installed
from farm.host.places import check_folder


@click.command(
    epilog="""\b
    Examples:
      farm bench
      farm bench --whole
      farm bench --seconds 1800 --repeats 5 --out results
      farm bench --model sd14=/models/sd14 --device cuda:0
      farm bench --shape small-sdxl
    """
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Write JSON and plots here."
)
@click.option("--seconds", type=click.FloatRange(30), metavar="S", help="Cut workloads to this time.  [default: 280]")
@click.option("--repeats", type=click.IntRange(3), metavar="N", help="Runs of every arm.  [default: 3]")
@click.option("--device", metavar="D", help="cpu, cuda or cuda:N.  [default: the best there is]")
@click.option("--model", metavar="NAME=DIR", help="In diffusers' layout.  [default: emoji; random weights on a GPU]")
@click.option("--shape", metavar="S", help="Random weights of a shape instead: sd14, sdxl or small-sdxl.")
@click.option("--rows", type=click.IntRange(2, 1024), metavar="N", help="Rows of one forward.  [default: 32, or 64]")
@click.option("--slots", type=click.IntRange(1, 1024), metavar="N", help="Jobs in flight.  [default: half the rows]")
@click.option("--whole", is_flag=True, help="Only one backlog by LMS, but of whole jobs: takes minutes.")
@click.option("--no-plots", is_flag=True, help="Do without matplotlib.")
def bench(whole: bool, no_plots: bool, **options: object) -> None:
    """Measure how many times as fast as diffusers' pipelines the farm renders here, with the same weights.

    No farm is needed. The plots need matplotlib, which the extra 'bench' brings.
    """
    check_installed()
    if isinstance(out := options["out"], Path):
        check_folder(out, option="--out")
    given = [text for name, value in options.items() if value is not None for text in (f"--{name}", str(value))]
    sys.stdout.flush()
    given += ["--whole"] if whole else []
    given += ["--no-plots"] if no_plots else []
    command = [sys.executable, "-P", "-m", "worker.bench", *given]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted
