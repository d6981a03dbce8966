"""Where jobs belong on a sheet with axes: by the fields they differ in, or by the labels that a grid gave them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from farm.jobs.fields import NONE, differing, value
from farm.jobs.grid import AXES, label_of
from farm.jobs.spec import JobSpec

Fields = Mapping[str, str]
"""The field of each axis that there is: `x` and, as it may be, `y` and `z`."""


@dataclass(frozen=True)
class Arranged:
    """One job, as far as its place depends on it."""

    spec: JobSpec
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Arrangement:
    """The values along each axis (one empty value where there is no such axis), and who is in which cell.

    `cells` has the positions of jobs by page, row and column, in the order of the jobs; what is empty is not in it.
    """

    fields: Fields
    pages: Sequence[str]
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Mapping[tuple[int, int, int], Sequence[int]]

    @property
    def size(self) -> int:
        """How many cells there are, empty ones included."""
        return len(self.pages) * len(self.rows) * len(self.columns)

    @property
    def crowded(self) -> Sequence[Sequence[int]]:
        """The cells with several jobs."""
        return [jobs for jobs in self.cells.values() if len(jobs) > 1]


def axes_of(labels: Iterable[Mapping[str, str]]) -> Fields:
    """The fields of the grid that the jobs with these labels are of; none if they are of none, or of unlike ones."""
    found = {tuple(_field(of_a_job.get(label_of(name), "")) for name in AXES) for of_a_job in labels}
    fields = found.pop() if len(found) == 1 else ("", "", "")
    return {name: field for name, field in zip(AXES, fields, strict=True) if field} if fields[0] else {}


def arrange(jobs: Sequence[Arranged], fields: Fields) -> Arrangement:
    """The jobs by these fields. Raises `InvalidInput` for a field that no spec tells anything of."""
    along = {name: [_value(job, fields[name]) if name in fields else "" for job in jobs] for name in AXES}
    values = {name: _ordered(along[name], jobs, fields.get(name)) for name in AXES}
    index = {name: {value: place for place, value in enumerate(values[name])} for name in AXES}
    cells: dict[tuple[int, int, int], list[int]] = {}
    for position in range(len(jobs)):
        column, row, page = (index[name][along[name][position]] for name in AXES)
        cells.setdefault((page, row, column), []).append(position)
    return Arrangement(fields, values["z"], values["y"], values["x"], cells)


def told_apart(jobs: Sequence[Arranged], arrangement: Arrangement) -> Sequence[str]:
    """The fields in which jobs that share a cell differ."""
    found = (differing(jobs[position].spec for position in cell) for cell in arrangement.crowded)
    return list(dict.fromkeys(itertools.chain.from_iterable(found)))


def _value(job: Arranged, field: str) -> str:
    """By the grid's label, which has it as it was asked for, or else by the spec."""
    for name in AXES:
        label = job.labels.get(label_of(name), "")
        if _field(label) == field:
            return label.partition("=")[2] or NONE
    return value(job.spec, job.labels, field)


def _field(label: str) -> str:
    field, equals, _ = label.partition("=")
    return field if equals else ""


def _ordered(values: Sequence[str], jobs: Sequence[Arranged], field: str | None) -> list[str]:
    """Each value once: numbers by their size, unless a grid says in which order they come; others as they come."""
    each = list(dict.fromkeys(values))
    if field in axes_of(job.labels for job in jobs).values():
        return each
    numbers = [_number(one) for one in each]
    return sorted(each, key=float) if all(number is not None for number in numbers) else each


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
