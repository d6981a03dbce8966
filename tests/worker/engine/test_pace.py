"""How many rows are taken together, by what they were seen to take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from tests.worker.engine.test_engine import with_unet
from worker.engine.engine import Engine
from worker.engine.pace import Paces
from worker.engine.request import RenderRequest
from worker.models.model import LoadedModel

Curve = Callable[[int], float]
"""Seconds of a step, by its rows."""

SIZES = (2, 4, 8, 16, 32, 64)


def seen(curve: Curve, sizes: tuple[int, ...] = SIZES) -> int | None:
    paces = Paces()
    for rows in sizes:
        paces.took("key", rows, curve(rows))
    return paces.worth("key")


@pytest.mark.parametrize(
    ("curve", "enough"),
    [
        (lambda rows: 0.5 * rows, 2),  # two keep the device busy
        (lambda rows: max(4.0, 0.5 * rows), 8),  # eight do
        (lambda rows: 1.0 + 0.1 * rows, None),  # more are always quicker
        (lambda rows: 0.04 * rows, 25),  # as many as are done before anybody notices
        (lambda rows: 0.5 * rows**1.1, 2),  # more are even slower
    ],
)
def test_more_rows_are_taken_while_each_is_done_sooner(curve: Curve, enough: int | None) -> None:
    assert seen(curve) == enough


def test_nothing_is_known_of_numbers_that_were_not_seen() -> None:
    assert Paces().worth("key") is None
    assert seen(lambda rows: 0.5 * rows, sizes=(2, 2, 2)) is None
    assert seen(lambda rows: 0.5 * rows, sizes=(6, 7, 8)) is None, "these are one number"


def test_a_larger_number_that_was_slow_is_tried_again() -> None:
    paces = Paces()
    paces.took("key", 16, 100.0)  # kernels were chosen, or a graph was made
    for _ in range(63):
        paces.took("key", 4, 2.0)
        assert paces.worth("key") == 4
    paces.took("key", 4, 2.0)
    assert paces.worth("key") is None, "so the next step has all that there are"
    paces.took("key", 16, 4.0)
    assert paces.worth("key") is None, "and they gain by it"


def test_what_slows_a_step_once_does_not_count() -> None:
    paces = Paces()
    for _ in range(8):
        paces.took("key", 4, 2.0)
        paces.took("key", 16, 8.0)
    paces.took("key", 4, 20.0)
    assert paces.worth("key") is None
    paces.took("key", 4, 2.0)
    assert paces.worth("key") == 4


@pytest.mark.parametrize("deterministic", [False, True])
def test_an_engine_takes_no_more_rows_than_gain_by_it(
    engines: Callable[..., Engine],
    request_for: Callable[..., RenderRequest],
    model: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    deterministic: bool,
) -> None:
    """A deterministic one does not ask the clock."""
    monkeypatch.setattr(Paces, "worth", lambda *_: 4)
    numbers: list[int] = []

    def count(rows: Tensor, *arguments: Any, **keywords: Any) -> Any:
        numbers.append(len(rows))
        return model.unet(rows, *arguments, **keywords)

    engine, counted = engines(max_rows=8, deterministic=deterministic), with_unet(model, count)
    waiting = [engine.submit(replace(request_for(f"job {n}", steps=5), model=counted)) for n in range(4)]
    [future.result() for future in waiting]

    assert max(numbers) == (8 if deterministic else 4)
