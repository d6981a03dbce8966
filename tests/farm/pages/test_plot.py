"""Where the parts of a plot lie: every point where its number says, round ticks, nothing beyond the edges."""

from __future__ import annotations

import math
import re

import pytest

from farm.pages.plot import BOTTOM, LEFT, RIGHT, TOP, Plot, Series


def plot(*values: float | None, log: bool = False, first: int = 0, last: int | None = None) -> Plot:
    series = Series("a", list(enumerate(values, start=first)))
    return Plot("p", "P", "about", (series,), first, first + len(values) - 1 if last is None else last, log=log)


def test_points_lie_where_their_numbers_say() -> None:
    made = plot(0.0, 5.0, 10.0)
    assert made.places(made.series[0]) == [(LEFT, BOTTOM), ((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2), (RIGHT, TOP)]
    assert made.lines(made.series[0]) == [
        f"{LEFT},{BOTTOM} {(LEFT + RIGHT) / 2:g},{(TOP + BOTTOM) / 2:g} {RIGHT},{TOP}"
    ]


def test_a_logarithmic_axis_has_equal_room_for_equal_ratios() -> None:
    made = plot(0.1, 1.0, 10.0, log=True)
    assert [y for _, y in made.places(made.series[0])] == [BOTTOM, (TOP + BOTTOM) / 2, TOP]
    assert [tick.label for tick in made.levels] == ["0.1", "0.2", "0.5", "1", "2", "5", "10"]


def of_noise(*levels: float) -> Plot:
    series = Series("a", [(level, float(place)) for place, level in enumerate(levels)])
    return Plot("p", "P", "about", (series,), max(levels), min(levels), noise=True)


def test_noise_falls_from_left_to_right_with_equal_room_for_equal_ratios() -> None:
    made = of_noise(10.0, 1.0, 0.1)
    assert [x for x, _ in made.places(made.series[0])] == [LEFT, (LEFT + RIGHT) / 2, RIGHT]
    assert [(tick.label, tick.at) for tick in made.steps if tick.label in ("10", "1", "0.1")] == [
        ("0.1", RIGHT),
        ("1", (LEFT + RIGHT) / 2),
        ("10", LEFT),
    ]
    assert [level for level, _ in made.rows] == [10.0, 1.0, 0.1]
    assert made.unit == "σ"


@pytest.mark.parametrize("levels", [(1.0,), (3.0, 3.0), (1e100, 2e-100), (1.0, 1.0 + 1e-15)])
def test_whatever_the_noise_levels_are_all_lies_within_the_plot(levels: tuple[float, ...]) -> None:
    made = of_noise(*levels)
    places = [x for x, _ in made.places(made.series[0])] + [tick.at for tick in made.steps]
    assert all(LEFT <= x <= RIGHT for x in places)


def test_what_has_no_number_interrupts_a_curve() -> None:
    made = plot(1.0, 2.0, None, math.nan, 3.0)
    assert [line.count(",") for line in made.lines(made.series[0])] == [2, 1]
    assert len(made.dots(made.series[0])) == 3
    assert plot(2.0, 0.0, -1.0, log=True).places(Series("a", [(0, 2.0), (1, 0.0), (2, -1.0)])) == [(LEFT, 107.0)]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((0.0, 10.0), ["0", "2", "4", "6", "8", "10"]),
        ((20.0, 30.0), ["20", "22", "24", "26", "28", "30"]),
        ((1.0, 30.0), ["0", "5", "10", "15", "20", "25", "30"]),
        ((-0.3, 0.3), ["-0.3", "-0.2", "-0.1", "0", "0.1", "0.2", "0.3"]),
    ],
)
def test_ticks_are_round_numbers(values: tuple[float, ...], labels: list[str]) -> None:
    assert [tick.label for tick in plot(*values).levels] == labels


def test_steps_are_whole_numbers() -> None:
    assert [tick.label for tick in plot(1.0, 2.0, 3.0, first=12).steps] == ["12", "13", "14"]
    assert [tick.label for tick in plot(1.0, first=5).steps] == ["5"]
    assert [tick.label for tick in plot(1.0, 2.0, first=0, last=999).steps] == ["0", "200", "400", "600", "800"]


@pytest.mark.parametrize(
    "values",
    [
        *((7.0,), (0.0, 0.0), (-3.0, -3.0), (5e-324, 1e-320), (1e100, -1e100), (1e100, 1e100), (1.0, 1.0 + 1e-15)),
        *((1e-200, 1e100), (1e99, 1e100)),
    ],
)
@pytest.mark.parametrize("log", [False, True])
def test_whatever_the_numbers_are_all_lies_within_the_plot(values: tuple[float, ...], log: bool) -> None:
    made = plot(*values, log=log)
    if made.is_empty:
        assert log
        return
    places = made.places(made.series[0])
    heights = [y for _, y in places] + [tick.at for tick in made.levels]
    assert all(TOP <= y <= BOTTOM for y in heights)
    assert all(LEFT <= x <= RIGHT for x, _ in places)
    assert 0 < len(made.levels) <= 12 or log
    assert all(re.fullmatch(r"-?[\d.]+(e[+-]\d+)?", tick.label) for tick in made.levels)


def test_the_table_has_a_row_a_step_and_a_column_a_curve() -> None:
    made = Plot("p", "P", "", (Series("a", [(0, 1.0), (2, 3.0)]), Series("b", [(2, 4.0)])), 0, 2)
    assert made.rows == [(0, [1.0, None]), (2, [3.0, 4.0])]


def test_of_very_many_points_only_lonely_ones_are_dots() -> None:
    made = plot(*[1.0] * 500, None, 2.0)
    assert len(made.dots(made.series[0])) == 1
    assert len(made.places(made.series[0])) == 501
