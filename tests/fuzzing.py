"""Random input, always the same: what it is made of, and the bounds within which it must be taken or refused."""

from __future__ import annotations

import copy
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_Change = Callable[[Any, str], object]

_MEMORY_BYTES = 2 * 2**30


def fuzz(examples: int) -> settings:
    """The same examples in every run, each of which ends within a time that only an endless one takes."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=timedelta(seconds=30),
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def bounded_memory() -> Iterator[None]:
    """What wants 2 GiB more than there is now gets a `MemoryError`. On Linux; elsewhere it is not bounded."""
    if sys.platform != "linux":
        yield
        return
    with open("/proc/self/statm", encoding="utf-8") as statm:  # noqa: PTH123 - before anything can fail
        now = int(statm.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + _MEMORY_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


NASTY = (
    *(
        "",
        " ",
        "../..",
        "../../etc/passwd",
        "/etc/passwd",
        "a/../b",
        "a\0b",
        "a\nb",
        "\x1b[2J\x1b]0;x\x07",
        "\u202e",
        "\x9b2J",
    ),
    *("\ud800", "NaN", "Infinity", "1e999", "0x" + "f" * 5_000, "9" * 5_000, "٣", "²", "null", "true", "~", "=", "<<"),
    *("[red]", "{0}", "%s", "$(id)", "x" * 10_000, "__class__", "png", "emoji", "0" * 16, "0" * 16 + "-0000"),
)

words = st.one_of(st.sampled_from(NASTY), st.text(max_size=20))
numbers = st.one_of(
    st.integers(-2, 2_100),
    st.sampled_from((2**31, 2**53, 2**63, 2**64, -(2**63), 10**400, 10**4_000)),
    st.floats(),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, words)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=4)),
    max_leaves=12,
)


def spoilt(valid: Any) -> st.SearchStrategy[Any]:
    """A valid document with one to four things in it replaced, left out or added."""
    return st.lists(st.tuples(st.integers(0, 2**16), anything, words), min_size=1, max_size=4).map(
        lambda changes: _changed(valid, changes)
    )


def _changed(valid: Any, changes: list[tuple[int, Any, str]]) -> Any:
    document = copy.deepcopy(valid)
    for which, value, name in changes:
        places = list(_places(document))
        if not places:
            return value
        places[which % len(places)](value, name)
    return document


def _places(document: Any) -> Iterator[_Change]:
    """Each way to change something in a document."""
    if isinstance(document, dict):
        yield lambda value, name: document.update({name: value})
        for key in list(document):
            yield from _of_one(document, key)
            yield from _places(document[key])
    if isinstance(document, list):
        yield lambda value, _: document.append(value)
        yield lambda _, __: document.extend(document[:4] * 5)
        for index in range(len(document)):
            yield _replacing(document, index)
            yield from _places(document[index])


def _of_one(document: dict[Any, Any], key: Any) -> Iterator[_Change]:
    """Each way to change a key of a document: another value, none, and the value under another key as well."""
    yield _replacing(document, key)
    yield lambda _, __: document.pop(key)
    yield lambda value, name: document.update({name: document.get(key, value)})


def _replacing(document: Any, place: Any) -> _Change:
    return lambda value, _: document.__setitem__(place, value)
