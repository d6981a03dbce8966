"""Which job goes into which cell of a sheet with axes."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.errors import InvalidInput
from farm.jobs.arrangement import Arranged, arrange, axes_of, told_apart
from farm.jobs.grid import parse_axis, requests
from farm.jobs.request import JobRequest

BASE: dict[str, Any] = {"mode": "txt2img", "prompt": ["a cat"], "seed": 7}


def job(labels: dict[str, str] | None = None, **fields: Any) -> Arranged:
    (spec,) = JobRequest.parse({"prompt": "an otter", "seed": 7, **fields}).specs(None, default_model="emoji")
    return Arranged(spec, labels or {})


def of_a_grid(*axes: str, **fields: Any) -> list[Arranged]:
    parsed = [parse_axis(text, name=name) for text, name in zip(axes, "xyz", strict=False)]
    made = requests({**BASE, **fields}, parsed)
    return [Arranged(spec, request.labels) for request in made for spec in request.specs(None, default_model="emoji")]


def test_jobs_of_any_origin_are_placed_by_their_specs() -> None:
    jobs = [job(guidance=scale, steps=steps) for steps in (20, 9) for scale in (7.5, 10, 1)]
    random.Random(1).shuffle(jobs)

    found = arrange(jobs, {"x": "guidance", "y": "steps"})

    assert (found.columns, found.rows, found.pages) == (["1", "7.5", "10"], ["9", "20"], [""])
    assert found.size == 6 and not found.crowded
    for (page, row, column), (position,) in found.cells.items():
        spec = jobs[position].spec
        assert (page, spec.steps, spec.guidance.scale) == (0, (9, 20)[row], (1, 7.5, 10)[column])


def test_words_come_in_the_order_of_the_jobs() -> None:
    jobs = [job(sampler=sampler) for sampler in ("lms", "euler", "ddim", "euler")]
    found = arrange(jobs, {"x": "sampler"})
    assert found.columns == ["lms", "euler", "ddim"]
    assert found.cells == {(0, 0, 0): [0], (0, 0, 1): [1, 3], (0, 0, 2): [2]}
    assert found.crowded == [[1, 3]]


def test_a_cell_without_a_job_is_left_out() -> None:
    found = arrange([job(steps=1, seed=1), job(steps=2, seed=2)], {"x": "steps", "y": "seed"})
    assert found.size == 4 and set(found.cells) == {(0, 0, 0), (0, 1, 1)}


def test_a_grid_is_laid_out_as_it_was_asked_for() -> None:
    jobs = of_a_grid("guidance=7.5,1", "prompt=cat,dog", "steps=20,10")
    fields = axes_of(one.labels for one in jobs)
    assert fields == {"x": "guidance", "y": "prompt", "z": "steps"}

    found = arrange(jobs, fields)

    assert (found.columns, found.rows, found.pages) == (["7.5", "1"], ["cat", "dog"], ["20", "10"])
    assert [cell for _, cell in sorted(found.cells.items())] == [[position] for position in range(8)]


@pytest.mark.long
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.randoms())
def test_every_job_of_a_grid_has_a_cell_of_its_own(lengths: list[int], rng: random.Random) -> None:
    swept = [("guidance", "1,2,3,4"), ("sampler", "ddim,lms,euler,euler_a"), ("steps", "4,3,2,1")]
    texts = [
        f"{field}={','.join(values.split(',')[:length])}"
        for (field, values), length in zip(swept, lengths, strict=False)
    ]
    jobs = of_a_grid(*texts)
    found = arrange(jobs, axes_of(one.labels for one in jobs))
    assert sorted(map(list, found.cells.values())) == [[position] for position in range(len(jobs))]
    assert set(found.cells) == set(
        itertools.product(*(range(len(values)) for values in (found.pages, found.rows, found.columns)))
    )


def test_a_grids_other_fields_can_be_named_instead() -> None:
    jobs = of_a_grid("guidance=7.5,1", "steps=20,10")
    found = arrange(jobs, {"x": "steps", "y": "seed"})
    assert (found.columns, found.rows) == (["20", "10"], ["7"])
    assert told_apart(jobs, found) == ["guidance"]


def test_a_count_makes_cells_crowded_by_seed() -> None:
    jobs = of_a_grid("steps=1,2", count=3)
    found = arrange(jobs, axes_of(one.labels for one in jobs))
    assert [len(cell) for cell in found.crowded] == [3, 3]
    assert told_apart(jobs, found) == ["seed"]


@pytest.mark.parametrize(
    "labels",
    [
        [],
        [{}],
        [{"grid.y": "steps=1"}],
        [{"grid.x": "steps=1"}, {}],
        [{"grid.x": "steps=1"}, {"grid.x": "seed=1"}],
        [{"grid.x": "steps"}],
        [{"grid.x": "=1"}],
    ],
)
def test_jobs_of_no_grid_or_of_unlike_ones_have_no_axes(labels: list[dict[str, str]]) -> None:
    assert axes_of(labels) == {}


def test_labels_that_a_stranger_wrote_are_words() -> None:
    jobs = [job({"grid.x": "<script>=1\n2"}), job({"grid.x": "<script>=3"})]
    fields = axes_of(one.labels for one in jobs)
    assert arrange(jobs, fields).columns == ["1\n2", "3"]


def test_no_words_at_all_are_a_dash() -> None:
    jobs = of_a_grid("negative=,blurry", "prompt=cat,")
    found = arrange(jobs, axes_of(one.labels for one in jobs))
    assert (found.columns, found.rows) == (["–", "blurry"], ["cat", "–"])


def test_a_field_that_no_spec_tells_of_is_refused() -> None:
    with pytest.raises(InvalidInput, match="what a job had in 'priority' is not kept"):
        arrange([job()], {"x": "priority"})
