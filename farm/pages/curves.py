"""The plots of a trace page: which numbers of a job make which curves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from farm.jobs.spec import JobSpec
from farm.pages.gather import Seen
from farm.pages.plot import Plot, Series
from farm.pages.record import Part, Remark, Step, figure

_OLDER = "What guidance does is not here, for its trace is of an older worker."
_OFF = "What guidance does is not here, for it was off: its scale makes one prediction do."


def schedule_plot(seen: Seen) -> tuple[Plot | None, list[Remark]]:
    """The whole schedule with this job's part of it; without one, the noise levels of the steps in the trace."""
    spec, schedule = seen.result.spec, seen.result.schedule
    if schedule is not None:
        levels: list[tuple[int, float | None]] = list(enumerate(map(figure, schedule.sigmas)))
        about, remarks = f"σ/α at each of the {spec.steps} steps of the schedule", []
    else:
        levels = [(step.step, step.sigma) for step in seen.steps]
        about = "σ/α at the steps of the trace"
        remarks = [Remark("schedule", "Its result has no schedule, for it is of an older worker.")]
        remarks += [Remark("schedule", "These are the levels of the steps in its trace.")] if levels else []
    skipped = [(step, level) for step, level in levels if step < spec.start.step]
    rendered = [(step, level) for step, level in levels if step >= spec.start.step]
    series = [Series("this job's steps", rendered)]
    if skipped:
        series.append(Series("steps that it skipped", skipped))
    plot = Plot(
        "schedule",
        "Noise level",
        f"{about}, on a logarithmic scale. The job starts at step {spec.start.step} and ends after step "
        f"{spec.steps - 1}.",
        tuple(series),
        0,
        max(spec.steps - 1, len(levels) - 1),
        log=True,
        mark=(spec.start.step, "start"),
    )
    return (None if plot.is_empty else plot), remarks


def guidance_plots(seen: Seen) -> tuple[list[Plot], list[Remark]]:
    """What guidance does, by the traced steps: norms of the predictions, the angle and the distance between them."""
    draw = _drawer(seen)
    norms = [
        Series("conditional", _norms(seen.steps, "conditional")),
        Series("unconditional", _norms(seen.steps, "unconditional")),
        Series("guided", _norms(seen.steps, "output")),
    ]
    pulls = [(step.step, step.guidance) for step in seen.steps]
    angle = Series("angle", [(step, pull.angle if pull else None) for step, pull in pulls])
    distance = Series("distance", [(step, pull.distance if pull else None) for step, pull in pulls])
    plots = [
        draw("predictions", "Norms of the predictions", "Euclidean norm of what the UNet predicts", norms),
        draw(
            "angle",
            "Angle of guidance, in degrees",
            "degrees between the conditional and the unconditional prediction",
            [angle],
        ),
        draw("distance", "Distance of guidance", "norm of the difference of the two predictions", [distance]),
    ]
    found = [plot for plot in plots if plot]
    if not seen.steps or any(pull for _, pull in pulls):
        return found, []
    is_older = not any("x_next" in step.norms for step in seen.steps)
    return found, [Remark("numbers", _OLDER if is_older else _OFF)]


def latents_plots(seen: Seen) -> list[Plot]:
    """How large the latents and the predicted x_0 are, and how much x_0 still changes."""
    draw = _drawer(seen)
    norms = [
        Series("x before the step", _norms(seen.steps, "x")),
        Series("x after it", _norms(seen.steps, "x_next")),
        Series("predicted x₀", _norms(seen.steps, "x0")),
    ]
    change = Series("change of x₀", [(step.step, step.x0_change) for step in seen.steps])
    plots = (
        draw("latents", "Norms of the latents", "Euclidean norm of the latents and of the predicted x₀", norms),
        draw("x0-change", "Change of x₀", "norm of the predicted x₀ minus that of the step before", [change]),
    )
    return [plot for plot in plots if plot]


def losses_plots(seen: Seen) -> tuple[list[Plot], list[Remark]]:
    """Every loss at the steps at which it was due: as it is, and times its scale."""
    spec = seen.result.spec
    if not spec.guidance.losses:
        return [], []
    scales, times = _scales(spec)
    known, remarks = losses_of(seen)
    draw = _drawer(seen)
    raw = [Series(name, points) for name, points in known.items()]
    scaled = [
        Series(f"{name} × {scales[name]:g}", [(step, _times(scales[name], value)) for step, value in points])
        for name, points in known.items()
        if name in scales
    ]
    if several := [name for name in known if times[name] > 1]:
        told = f"{', '.join(several)} guides this job more than once, so its values cannot be told apart nor scaled."
        remarks.append(Remark("losses", told))
    plots = (
        draw("losses", "Losses", "each loss as it is, at the steps at which it was due", raw),
        draw("losses-scaled", "Losses × scale", "each loss times the scale that it pulls with", scaled),
    )
    return [plot for plot in plots if plot], remarks


def losses_of(seen: Seen) -> tuple[dict[str, list[tuple[int, float | None]]], list[Remark]]:
    """The values of each loss of the job by its name, as it is: the steps at which it was due, in order."""
    spec, remarks = seen.result.spec, []
    names = {term.name for term in spec.guidance.losses}
    losses: Mapping[str, Sequence[tuple[int, float | None]]] = seen.result.losses
    if not losses and seen.result.schedule is None:  # which came with them
        losses = {
            name: [(step.step, step.losses[name]) for step in seen.steps if name in step.losses] for name in names
        }
        remarks.append(Remark("losses", "Its result has no losses, for it is of an older worker."))
        remarks += [Remark("losses", "These are of the steps in its trace.")] if any(losses.values()) else []
    elif not losses:
        remarks.append(Remark("losses", "No loss was due at any of its steps."))
    return {name: _in_order(points, spec) for name, points in losses.items() if name in names}, remarks


def _scales(spec: JobSpec) -> tuple[dict[str, float], Counter[str]]:
    """The scale of each loss that there is once, and how often each is there."""
    times = Counter(term.name for term in spec.guidance.losses)
    terms = spec.guidance.losses
    return {one.name: one.scale for one in terms if times[one.name] == 1 and one.scale is not None}, times


def _in_order(points: Sequence[tuple[int, float | None]], spec: JobSpec) -> list[tuple[int, float | None]]:
    """Points that belong to steps of the job, each once."""
    once = dict(points)
    return [(step, figure(once[step])) for step in sorted(once) if spec.start.step <= step < spec.steps]


def _times(scale: float, value: float | None) -> float | None:
    return None if value is None else scale * value


def _norms(steps: Sequence[Step], name: str) -> list[tuple[int, float | None]]:
    return [(step.step, step.norms.get(name)) for step in steps]


def _drawer(seen: Seen) -> Callable[[str, str, str, Sequence[Series]], Plot | None]:
    """What makes a plot over this job's steps of those curves that have a value; None if none has."""
    spec = seen.result.spec

    def draw(id: str, title: str, about: str, series: Sequence[Series]) -> Plot | None:
        with_values = tuple(one for one in series if any(value is not None for _, value in one.points))
        made = Plot(id, title, f"{about}, by step.", with_values, spec.start.step, spec.steps - 1)
        return None if made.is_empty else made

    return draw


def undrawn(part: Part, plots: Iterable[Plot]) -> Iterator[Remark]:
    """A remark on curves that are interrupted by what is no number."""
    for plot in plots:
        if number := sum(value is not None and math.isnan(value) for one in plot.series for _, value in one.points):
            told = (
                f"{plot.title}: {number:,} {'value is no number' if number == 1 else 'values are no numbers'} to draw."
            )
            yield Remark(part, told)
