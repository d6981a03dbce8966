"""The figures as pictures, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farm.errors import FarmError


def draw(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the plots into `folder`. Raises `FarmError` if matplotlib is missing."""
    try:
        import matplotlib
    except ImportError as error:
        raise FarmError("matplotlib is not installed", hint="pip install -c constraints.txt '.[bench]'") from error
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "the same bytes for the same figures"
    return [_throughput(found, folder / "throughput.svg"), _latency(found, folder / "latency.svg")]


def _throughput(found: Mapping[str, Any], path: Path) -> Path:
    from matplotlib import pyplot

    backlogs = found["backlog"]
    figure, axes = pyplot.subplots(1, len(backlogs), figsize=(4.2 * len(backlogs), 3.2), layout="constrained")
    for axis, (name, backlog) in zip([axes] if len(backlogs) == 1 else list(axes), backlogs.items(), strict=True):
        arms = list(backlog["arms"].items())[::-1]
        medians = [numbers["images_per_second"]["median"] for _, numbers in arms]
        low = [m - n["images_per_second"]["least"] for m, (_, n) in zip(medians, arms, strict=True)]
        high = [n["images_per_second"]["most"] - m for m, (_, n) in zip(medians, arms, strict=True)]
        colors = ["tab:orange" if arm == "engine" else "tab:gray" for arm, _ in arms]
        axis.barh([arm for arm, _ in arms], medians, xerr=[low, high], color=colors)
        axis.set_title(f"unlike backlog, {name}", fontsize=9)
        axis.set_xlabel("images a second", fontsize=8)
        axis.tick_params(labelsize=7)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def _latency(found: Mapping[str, Any], path: Path) -> Path:
    from matplotlib import pyplot

    loads = found["latency"]["loads"]
    figure, axis = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    for arm in next(iter(loads.values()))["arms"]:
        axis.plot(list(loads), [at["arms"][arm]["p95"] for at in loads.values()], marker="o", label=arm)
    axis.set_yscale("log")
    axis.set_xlabel("arrivals, as a share of what a pipeline can do", fontsize=8)
    axis.set_ylabel("95th percentile of latency, s", fontsize=8)
    axis.legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path
