"""The plots of a comparison: one number of several jobs over the noise levels of their steps, a curve for each job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from farm.pages.alignment import is_level
from farm.pages.curves import losses_of
from farm.pages.gather import Seen
from farm.pages.plot import Plot, Series
from farm.pages.record import Step

Points = Sequence[tuple[int, float | None]]
_QUANTITIES: tuple[tuple[str, str, str, Callable[[Step], float | None]], ...] = (
    (
        "guided",
        "Norm of the guided prediction",
        "Euclidean norm of the prediction that guidance makes of the two",
        lambda step: step.norms.get("output"),
    ),
    (
        "angle",
        "Angle of guidance, in degrees",
        "degrees between the conditional and the unconditional prediction",
        lambda step: step.guidance.angle if step.guidance else None,
    ),
    (
        "distance",
        "Distance of guidance",
        "norm of the difference of the two predictions",
        lambda step: step.guidance.distance if step.guidance else None,
    ),
    (
        "x0-change",
        "Change of x₀",
        "norm of the predicted x₀ minus that of the step before",
        lambda step: step.x0_change,
    ),
)


def overlays(jobs: Sequence[Seen], names: Sequence[str]) -> list[Plot]:
    """What guidance does, how much x_0 changes, and each loss: of those jobs, by their names, that have it."""
    plots = [
        _overlaid(jobs, names, id, title, about, [[(step.step, of(step)) for step in seen.steps] for seen in jobs])
        for id, title, about, of in _QUANTITIES
    ]
    losses = [losses_of(seen)[0] for seen in jobs]
    plots += [
        _overlaid(
            jobs,
            names,
            f"loss-{number}",
            f"Loss: {name}",
            "the loss as it is, at the steps at which it was due",
            [of_job.get(name, []) for of_job in losses],
        )
        for number, name in enumerate(dict.fromkeys(name for of_job in losses for name in of_job))
    ]
    return [plot for plot in plots if plot]


def _overlaid(
    jobs: Sequence[Seen], names: Sequence[str], id: str, title: str, about: str, values: Sequence[Points]
) -> Plot | None:
    """One plot of the jobs that have values; None if none has. A job looks the same in all plots."""
    curves = [
        Series(names[number], list(_over_noise(seen, points)), number)
        for number, (seen, points) in enumerate(zip(jobs, values, strict=True))
    ]
    series = tuple(one for one in curves if any(value is not None for _, value in one.points))
    levels = [level for one in series for level, value in one.points if value is not None]
    if not levels:
        return None
    made = Plot(id, title, f"{about}, by the noise level σ of the step.", series, max(levels), min(levels), noise=True)
    return None if made.is_empty else made


def _over_noise(seen: Seen, points: Points) -> Iterator[tuple[float, float | None]]:
    """The points of a curve at the noise levels of their steps, as far as they are known."""
    sigmas = seen.sigmas
    for step, value in points:
        if is_level(level := sigmas.get(step)):
            yield level, value
