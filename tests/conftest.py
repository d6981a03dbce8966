"""What tests of the farm and of the worker share: real servers, and a ledger on them."""

from __future__ import annotations

import gc
import itertools
import os
import signal
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import pytest

from farm import stack
from farm.ledger.ledger import Ledger
from farm.ledger.timing import TIMING, Timing
from farm.settings import Settings

# One thread for each process: processes that run side by side on few cores would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tables are drawn for a pipe's own width, whatever terminal the tests are started from.
os.environ.pop("COLUMNS", None)

# A shell's background job ignores Ctrl-C, and would hand that down to the processes under test.
signal.signal(signal.SIGINT, signal.default_int_handler)

_FARMS = tuple(Path(__file__).with_name(name) for name in ("faults", "gpu", "integration", "stack"))
"""Where every test is of a farm that runs."""
_FUZZ = Path(__file__).with_name("fuzz")

_MANY_CASES = 6
_OF_A_LONG_TEST = 4
"""A test that is marked as long takes about as many times as long as a file without any."""
_WITH_FARMS = 0.9
"""The part of the run in which there are farms."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected is not looked through for garbage: a third of that time went to find none."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


_LONGEST_ID = 60


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """What is long is called as its argument is.

    A file's bytes can differ by the second in which each process made them, and all processes must name a test alike.
    """
    return argname if isinstance(val, str | bytes) and len(val) > _LONGEST_ID else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a farm's processes, and bring the files into the order in which they keep the cores busy."""
    for item in items:
        if "servers" in getattr(item, "fixturenames", ()) or any(item.path.is_relative_to(folder) for folder in _FARMS):
            item.add_marker("farm")
        if item.path.is_relative_to(_FUZZ):
            item.add_marker("long")
    _keep_a_case_of_each(items)
    place = _places(items)
    items.sort(key=lambda item: place[item.path])


def _keep_a_case_of_each(items: Iterable[pytest.Item]) -> None:
    """The first case of a test that is long by its many cases is not: every edit is held to it."""
    of_each: dict[tuple[Path, str], list[pytest.Item]] = {}
    for item in items:
        of_each.setdefault((item.path, item.name.partition("[")[0]), []).append(item)
    for first, *others in of_each.values():
        if len(others) >= _MANY_CASES:
            first.own_markers = [marker for marker in first.own_markers if marker.name != "long"]


def _places(items: Iterable[pytest.Item]) -> dict[Path, float]:
    """Where each file is in a run, from 0 to 1.

    Files of farms mostly wait, and the others compute: where two of three processes wait, two cores have work to do. So
    the farms are spread over the others' time, of which the longest begin. The last of it has no farm, so that nobody
    waits for one in the end.
    """
    long = {(item.path, item.name.partition("[")[0]) for item in items if item.get_closest_marker("long")}
    longs = Counter(path for path, _ in long)
    files = dict.fromkeys(item.path for item in items)
    farms = [file for file in files if any(file.is_relative_to(folder) for folder in _FARMS)]
    others = sorted(files.keys() - farms, key=lambda file: (-longs[file], file))
    ends = list(itertools.accumulate(1 + _OF_A_LONG_TEST * longs[file] for file in others))
    last = ends[-1] if ends else 1
    return {
        **{file: _WITH_FARMS * number / len(farms) for number, file in enumerate(farms)},
        **{file: end / last for file, end in zip(others, ends, strict=True)},
    }


_prefixes = (f"test{number}" for number in itertools.count())


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The servers of a local farm without workers."""
    home = tmp_path_factory.mktemp("a farm") / "home"
    try:
        yield stack.start_detached(home, workers=0)
    finally:
        stack.stop(home)


@pytest.fixture
def timing() -> Timing:
    """The times that a test's ledger goes by."""
    return TIMING


@pytest.fixture
def ledger(ledger_on_redis: Ledger) -> Ledger:
    """A ledger of its own."""
    return ledger_on_redis


@pytest.fixture
def ledger_on_redis(servers: Settings, timing: Timing) -> Iterator[Ledger]:
    """A real one, on the servers of the session."""
    made = Ledger(servers, prefix=next(_prefixes), timing=timing)
    yield made
    made.close()
