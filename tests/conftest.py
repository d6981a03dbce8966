"""What tests of the farm and of the worker share: real servers, and a ledger on them."""

from __future__ import annotations

import gc
import itertools
import os
import signal
from collections.abc import Generator, Iterator
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


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected is not looked through for garbage: a third of that time went to find none."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a farm's processes, and begin with what takes longest, so that nobody waits for it in the end."""
    for item in items:
        if "servers" in getattr(item, "fixturenames", ()) or any(item.path.is_relative_to(folder) for folder in _FARMS):
            item.add_marker("farm")
        if item.path.is_relative_to(_FUZZ):
            item.add_marker("long")
    slow, farms = ({item.path for item in items if item.get_closest_marker(mark)} for mark in ("long", "farm"))
    items.sort(key=lambda item: (item.path not in slow, item.path not in farms))


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
