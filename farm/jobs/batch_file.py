"""Batch files: a few lines that describe many jobs, by defaults, `zip` and `product`.

    defaults: {steps: 30, model: emoji}
    jobs:
      - prompt: an otter
        zip: {seed: [1, 2], guidance: [3, 7.5]}          # in step: 2
        product: {sampler: [lms, euler], steps: [20, 30]}  # every combination: 4

makes 2 × 4 = 8 jobs. A field may be a dotted path into lists and mappings, such as `losses.0.scale`. Jobs
are counted before any is built, so that a file of a few bytes cannot ask for a billion.
"""

from __future__ import annotations

import copy
import difflib
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from farm.errors import InvalidInput
from farm.jobs.faults import quoted
from farm.jobs.request import JobRequest
from farm.jobs.wanted import MAX_COUNT
from farm.jobs.writing import ALPHA

MAX_JOBS = 100_000
MAX_AXES = 64
MAX_VALUES = 1_000
"""More values than any job can have, counting those in lists and mappings."""
_INDEX = re.compile(r"[0-9]{1,4}")
_EXPANSIONS = ("zip", "product")

# One choice sets some fields; an axis is the list of its choices; a job is one choice of every axis.
Choice = Mapping[str, Any]


def count(document: Any) -> int:
    """How many jobs the document makes, without making them. Raises `InvalidInput`."""
    number = 0
    for position, fields, axes in _entries(document):
        with _naming(position):
            number += _pictures(fields, axes)
    return number


def expand(
    document: Any,
    *,
    folder: Path = Path(),
    limit: int = 1_000,
    check: Callable[[Sequence[JobRequest]], object] = lambda _: None,
) -> list[JobRequest]:
    """The requests of a document; relative pictures are beside `folder`. `check` is called with those of each entry.

    Raises `InvalidInput` naming the entry at fault, or when there would be more than `limit` jobs
    (which itself is 100,000 at most).
    """
    limit = min(limit, MAX_JOBS)
    refuse_more(limit, count(document))
    requests: list[JobRequest] = []
    for position, fields, axes in _entries(document):
        with _naming(position):
            made = [request(fields, choices, folder) for choices in itertools.product(*axes)]
            check(made)
        requests += made
    refuse_more(limit, sum(request.count for request in requests))
    return requests


def refuse_more(limit: int, number: int) -> None:
    """Raise `InvalidInput` for more than `limit` jobs."""
    if number > limit:
        raise InvalidInput(f"makes {number:,} jobs, more than {limit:,}")


def _refuse_large(value: Any) -> None:
    """Refuse what has more values than a job can: it would be copied for each job, and cannot be valid."""
    inside, counted = [value], 0
    while inside:
        part = inside.pop()
        counted += 1
        if counted + len(inside) > MAX_VALUES:
            raise InvalidInput(f"there are more than {MAX_VALUES:,} values in one job")
        if isinstance(part, (dict, list)):
            inside += itertools.islice(part.values() if isinstance(part, dict) else part, MAX_VALUES)


def _entries(document: Any) -> Iterator[tuple[int, dict[str, Any], list[list[Choice]]]]:
    """Each entry of `jobs`: its position from 1, its fields over the defaults, its axes."""
    if not isinstance(document, dict) or not isinstance(document.get("jobs"), list) or not document["jobs"]:
        raise InvalidInput("has no list of jobs", hint="the form is {defaults: {…}, jobs: [{prompt: …}, …]}")
    refuse_unknown(document, ("defaults", "jobs"))
    defaults = _mapping(document.get("defaults") or {}, "defaults")
    _refuse_large(defaults)
    refuse_unknown(defaults, JobRequest.model_fields, within="defaults: ")
    for position, entry in enumerate(document["jobs"], start=1):
        with _naming(position):
            job = _mapping(entry, "the entry")
            refuse_unknown(job, (*JobRequest.model_fields, *_EXPANSIONS))
            fields = {name: value for name, value in job.items() if name not in _EXPANSIONS}
            _refuse_large(fields)
            if isinstance(defaults.get("labels"), dict) and isinstance(fields.get("labels"), dict):
                fields["labels"] = defaults["labels"] | fields["labels"]
            yield position, defaults | fields, _axes(job)


def _axes(job: Mapping[str, Any]) -> list[list[Choice]]:
    """`zip` is one axis, every field of `product` another."""
    zipped, crossed = (_lists(job.get(name) or {}, name) for name in _EXPANSIONS)
    if len(zipped) + len(crossed) > MAX_AXES:
        raise InvalidInput(f"zip and product have more than {MAX_AXES} lists")
    if twice := zipped.keys() & crossed.keys():
        raise InvalidInput("is in both zip and product", field=min(twice))
    lengths = {len(values) for values in zipped.values()}
    if len(lengths) > 1:
        said = ", ".join(f"{name} has {len(values)}" for name, values in zipped.items())
        raise InvalidInput(f"the lists of zip differ in length: {said}")
    axes: list[list[Choice]] = [[{name: value} for value in values] for name, values in crossed.items()]
    if zipped:
        axes.insert(0, [dict(zip(zipped, values, strict=True)) for values in zip(*zipped.values(), strict=True)])
    return axes


def _pictures(fields: Mapping[str, Any], axes: Iterable[list[Choice]]) -> int:
    """The number of combinations, each as often as its `count` says."""
    swept = [axis for axis in axes if "count" in axis[0]]
    others = math.prod(len(axis) for axis in axes if "count" not in axis[0])
    counts = [choice["count"] for choice in swept[0]] if swept else [fields.get("count", 1)]
    return others * sum(map(_whole_count, counts))


def _whole_count(value: Any) -> int:
    """A `count` as a number that can be summed; one below 1 is refused when its request is made."""
    if value is None:
        return 1
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if not is_whole or isinstance(value, bool):
        raise InvalidInput(f"{quoted(value)} is not a whole number", field="count")
    if value > MAX_COUNT:
        raise InvalidInput(f"{quoted(value)} is more than {MAX_COUNT:,}", field="count")
    return max(int(value), 1)


def request(fields: Mapping[str, Any], choices: Iterable[Choice], folder: Path = Path()) -> JobRequest:
    """The request that these fields make with the choices over them; a relative `init` or `mask` is beside `folder`.

    Raises `InvalidInput` naming the field at fault.
    """
    chosen = copy.deepcopy(dict(fields))
    for choice in choices:
        for path, value in choice.items():
            assign(chosen, path, copy.deepcopy(value))
    for field in ("init", "mask"):
        if isinstance(written := chosen.get(field), str) and written and (field, written) != ("mask", ALPHA):
            chosen[field] = _beside(folder, written, field)
    return JobRequest.parse(chosen)


def _beside(folder: Path, written: str, field: str) -> Path:
    if "\0" in written:
        raise InvalidInput(f"{written!r:.60} cannot be the name of a file", field=field)
    try:
        return folder / Path(written).expanduser()
    except RuntimeError as error:  # ~nobody
        raise InvalidInput(f"{written!r:.60}: {error}", field=field) from error


def assign(fields: dict[str, Any], path: str, value: Any) -> None:
    """Set `losses.0.scale` and the like; mappings on the way are made, lists must be there."""
    parts = path.split(".")
    target: Any = fields
    for part, following in itertools.pairwise(parts):
        if isinstance(target, dict) and part not in target and _INDEX.fullmatch(following):
            raise InvalidInput(f"there is no list {part!r:.40} to set it in", field=path)
        target = target.setdefault(part, {}) if isinstance(target, dict) else _item(target, part, path)
    last = parts[-1]
    if isinstance(target, dict):
        target[last] = value
    else:
        _item(target, last, path)
        target[int(last)] = value


def _item(target: Any, part: str, path: str) -> Any:
    if not isinstance(target, list) or not _INDEX.fullmatch(part) or int(part) >= len(target):
        raise InvalidInput(f"there is no {part!r:.40} to set", field=path)
    return target[int(part)]


def _lists(sweeps: Any, name: str) -> dict[str, list[Any]]:
    for field, values in _mapping(sweeps, name).items():
        refuse_unknown((field.partition(".")[0],), JobRequest.model_fields, within=f"{name}: ")
        if not isinstance(values, list) or not values:
            raise InvalidInput("must be a list of values", field=f"{name}.{field}")
        for value in values:
            _refuse_large(value)
    return dict(sweeps)


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InvalidInput(f"{what} must be a mapping of names to values")
    return value


def refuse_unknown(given: Iterable[str], known: Iterable[str], *, within: str = "") -> None:
    """Raise `InvalidInput` for the first name that is not known, with the one that may be meant."""
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            raise InvalidInput(f"{within}there is no field {str(name)!r:.60}", hint=hint)


@contextmanager
def _naming(position: int) -> Iterator[None]:
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"job {position}: {error.message}", hint=error.hint) from error
