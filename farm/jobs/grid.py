"""Grids: a request at every combination of the values of up to three of its fields, as batches are made by `product`.

    --x guidance=1,3,7.5 --y "prompt=cat,dog,owl" --z seed=1,2

makes 3 × 3 × 2 jobs. An axis over the prompt searches and replaces: its first value is looked for in the prompt, and
each of them put in its place. A job knows where it belongs by its labels (`grid.x: guidance=3`), so that whoever lays
the batch out on a sheet needs nothing else.
"""

from __future__ import annotations

import csv
import itertools
import math
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farm.errors import InvalidInput
from farm.jobs import tags
from farm.jobs.batch_file import MAX_JOBS, refuse_more, request
from farm.jobs.faults import quoted
from farm.jobs.fields import field_name
from farm.jobs.loras import LoraUse
from farm.jobs.request import JobRequest
from farm.jobs.writing import RANDOM_SEED

AXES = ("x", "y", "z")
_WHOLE = ("losses", "loras", "mix_with", "weights", "labels")
"""Lists and mappings: no single value fills them, but one can fill a part of them."""
_PROMPT = "prompt"
_MAX_LABEL = 200
_PLAIN = re.compile(r"[\w.+-]{1,60}")
_EXAMPLE = "such as --x guidance=1,3,7.5"


@dataclass(frozen=True)
class Axis:
    """A field and the values that it takes along `x`, `y` or `z`, as they were written."""

    name: str
    field: str
    values: tuple[str, ...]

    @property
    def option(self) -> str:
        return f"--{self.name}"


@dataclass(frozen=True)
class Place:
    """One value of an axis."""

    axis: Axis
    index: int

    @property
    def value(self) -> str:
        return self.axis.values[self.index]

    @property
    def label(self) -> str:
        """`guidance=3`, which no other place of the axis has: a value that is too long for a label is numbered."""
        said = f"{self.axis.field}={self.value}"
        if len(said) <= _MAX_LABEL:
            return said
        number = f"… ({self.index + 1})"
        return said[: _MAX_LABEL - len(number)] + number

    def __str__(self) -> str:
        shown = self.value if _PLAIN.fullmatch(self.value) else quoted(self.value)
        return f"{self.axis.field}={shown}"


def label_of(name: str) -> str:
    """The label by which a job knows its place on the axis of this name."""
    return f"grid.{name}"


def parse_axis(text: str, *, name: str) -> Axis:
    """The axis in `FIELD=VALUE,…`, whose values are written as CSV. Raises `InvalidInput` naming the option."""
    option = f"--{name}"
    written, equals, values = text.partition("=")
    if not equals:
        raise InvalidInput(f"{quoted(text)} is not FIELD=VALUE,…", field=option, hint=_EXAMPLE)
    try:
        field = field_name(written)
    except InvalidInput as error:
        raise InvalidInput(error.reason, field=option, hint=error.hint) from error
    if field in _WHOLE:
        raise InvalidInput(f"no value fills all of '{field}'", field=option, hint=_PARTS[field])
    if field == "count":
        raise InvalidInput("every place of a grid has as many pictures", field=option, hint="use seed=1,2,3 instead")
    return Axis(name, field, _values(values, field, option))


_PARTS = {
    "losses": "name a part: losses.0.scale, losses.0.every, or losses.0 and an argument, such as losses.0.target",
    "loras": "name a part: loras.0.weight, loras.0.unet or loras.0.text",
    "mix_with": "name a part: mix_with.0.weight",
    "weights": "name a part: weights.0; or use mix, the first prompt's share of two",
    "labels": "name one: labels.NAME",
}


def _values(text: str, field: str, option: str) -> tuple[str, ...]:
    try:
        rows = list(csv.reader([text], skipinitialspace=True, strict=True))
    except csv.Error as error:
        hint = 'a value with a comma in it is quoted: "prompt=cat,""a dog, asleep"""'
        raise InvalidInput(f"{quoted(text)} cannot be read as values: {error}", field=option, hint=hint) from error
    values = tuple(value.strip() for value in itertools.chain(*rows))
    if field == "seed" and str(RANDOM_SEED) in values:
        raise InvalidInput(f"{RANDOM_SEED} is another seed at every place", field=option, hint="name seeds: seed=1,2,3")
    if not values or values == ("",):
        raise InvalidInput(f"{field} has no values", field=option, hint=_EXAMPLE)
    for value in values:
        if values.count(value) > 1:
            raise InvalidInput(f"{quoted(value)} is there twice", field=option)
    return values


def count(fields: Mapping[str, Any], axes: Sequence[Axis]) -> int:
    """How many jobs the grid makes, without making them."""
    return math.prod(len(axis.values) for axis in axes) * max(1, fields.get("count") or 1)


def requests(
    fields: Mapping[str, Any],
    axes: Sequence[Axis],
    *,
    limit: int = MAX_JOBS,
    check: Callable[[Sequence[JobRequest]], object] = lambda _: None,
) -> list[JobRequest]:
    """A request for each place of the grid, row by row; `check` is called with each of them.

    All have one seed unless an axis is over it: a random one is drawn once. Raises `InvalidInput` naming the axis and
    the value at fault, or when there would be more than `limit` jobs.
    """
    _refuse_twice(axes)
    _refuse_missing(fields, axes)
    if any(axis.field == "seed" for axis in axes) and (fields.get("count") or 1) > 1:
        raise InvalidInput("goes with one seed, and an axis is over several", field="count")
    refuse_more(min(limit, MAX_JOBS), count(fields, axes))
    if fields.get("seed") in (None, RANDOM_SEED):
        fields = {**fields, "seed": secrets.randbits(32)}
    made = []
    for places in _places(axes):
        try:
            wanted = _request(fields, places)
            check([wanted])
        except InvalidInput as error:
            raise _blamed(error, fields, places, check) from error
        made.append(wanted)
    return made


def _refuse_twice(axes: Sequence[Axis]) -> None:
    """The prompt alone may be on several axes, for each of them replaces something else."""
    taken: dict[str, Axis] = {}
    for axis in axes:
        other = taken.setdefault(axis.field, axis)
        if other is not axis and axis.field != _PROMPT:
            raise InvalidInput(f"{axis.field} is on {other.option} already", field=axis.option)


def _refuse_missing(fields: Mapping[str, Any], axes: Sequence[Axis]) -> None:
    for axis in axes:
        root, _, rest = axis.field.partition(".")
        if root not in _ADDED_BY:
            continue
        what, option = _ADDED_BY[root]
        index, there = rest.partition(".")[0], len(fields.get(root) or ())
        if not (index.isdecimal() and int(index) < there):
            reason = f"{axis.field} is of a {what} that is not there; there are {there}"
            hint = f"add it by {option} NAME; the first is {root}.0"
            if root == "loras" and (named := _named_by_tags(fields)):
                hint = f"those of tags are not counted: write --lora {named[0].option} instead of its tag"
            raise InvalidInput(reason, field=axis.option, hint=hint)


def _named_by_tags(fields: Mapping[str, Any]) -> Sequence[LoraUse]:
    if fields.get("reading") == "plain":
        return ()
    return [use for prompt in fields.get(_PROMPT, ()) for use in tags.taken_out(prompt)[1]]


_ADDED_BY = {"losses": ("loss", "--loss"), "loras": ("LoRA", "--lora")}


def _places(axes: Sequence[Axis]) -> Iterator[tuple[Place, ...]]:
    """All combinations; the first axis changes fastest, as one reads."""
    each = [[Place(axis, index) for index in range(len(axis.values))] for axis in axes]
    return (found[::-1] for found in itertools.product(*reversed(each)))


def _request(fields: Mapping[str, Any], places: Iterable[Place]) -> JobRequest:
    chosen = {**fields, "labels": dict(fields.get("labels") or {})}
    for place in places:
        chosen["labels"][label_of(place.axis.name)] = place.label
        if place.axis.field == _PROMPT:
            chosen[_PROMPT] = _replaced(chosen[_PROMPT], fields[_PROMPT], place)
    return request(chosen, [{p.axis.field: p.value} for p in places if p.axis.field != _PROMPT])


def _replaced(prompts: Sequence[str], as_given: Sequence[str], place: Place) -> list[str]:
    sought, *_ = place.axis.values
    if not sought or not any(sought in prompt for prompt in as_given):
        hint = "the first value is what the others replace: --x prompt=cat,dog,owl"
        raise InvalidInput(f"{quoted(sought)} is not in the prompt", field=place.axis.option, hint=hint)
    return [prompt.replace(sought, place.value) for prompt in prompts]


def _blamed(
    error: InvalidInput,
    fields: Mapping[str, Any],
    places: Sequence[Place],
    check: Callable[[Sequence[JobRequest]], object],
) -> InvalidInput:
    """The error with the axis and the value that it is due to; without either if the grid has no part in it."""
    if error.field and error.field.startswith("--"):
        return error
    for is_meant in (_is_same, _is_of_same_kind):
        for place in places:
            if error.field and is_meant(place.axis.field, error.field):
                return InvalidInput(f"{place}: {error.reason}", field=place.axis.option, hint=error.hint)
    try:
        check([request(fields, ())])
    except InvalidInput as alone:
        if str(alone) == str(error):
            return error
    where = ", ".join(str(place) for place in places)
    return InvalidInput(f"with {where}: {error.reason}", field=error.field, hint=error.hint)


def _is_same(field: str, named: str) -> bool:
    return field == named


def _is_of_same_kind(field: str, named: str) -> bool:
    """Errors name `loss` for the arguments of one, and `conditioning` for what prompts and weights come to."""
    root, other = field.partition(".")[0], named.replace("-", "_").partition(".")[0]
    return other in {root, *_TOLD_AS.get(root, ())}


_TOLD_AS = {"losses": ("loss",), "prompt": ("conditioning",), "mix": ("weights",)}
