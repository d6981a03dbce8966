"""A farm for each file of faults, chance that can be repeated, and an audit at the end of every test."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from farm.ledger.timing import Timing
from tests.faults.farm import FaultyFarm
from tests.faults.processes import Process
from tests.timing import SHORT
from tests.tiny import build_tiny_model

_PASSED = pytest.StashKey[bool]()


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """When and whom the faults of this test hit. `FAULT_SEED=… pytest …` repeats a failed one's choices."""
    seed = os.environ.get("FAULT_SEED") or str(random.randrange(10**6))
    print(f"FAULT_SEED={seed}")
    return random.Random(f"{seed} {request.node.name}")


@pytest.fixture(scope="module")
def timing() -> Timing:
    """The times that this file's farm goes by."""
    return SHORT


@pytest.fixture(scope="module")
def unaudited_farm(tmp_path_factory: pytest.TempPathFactory, timing: Timing) -> Iterator[FaultyFarm]:
    """The servers of this file's tests."""
    folder: Path = tmp_path_factory.mktemp("faults")
    farm = FaultyFarm(folder / "home", build_tiny_model(folder / "tiny"), timing)
    try:
        yield farm
    finally:
        farm.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[_PASSED] = report.when == "call" and report.passed
    return report


@pytest.fixture
def ended_well(request: pytest.FixtureRequest) -> Callable[[], bool]:
    """Tells a fixture that takes down whether the test before it has passed."""
    return lambda: request.node.stash.get(_PASSED, False)


@pytest.fixture
def farm(unaudited_farm: FaultyFarm, ended_well: Callable[[], bool]) -> Iterator[FaultyFarm]:
    """The farm. A test that ends well is followed by the audit of everything that was ever submitted.

    One that fails leaves neither workers nor jobs to those that come after it.
    """
    before = unaudited_farm.mark()
    yield unaudited_farm
    is_well = False
    try:
        if ended_well():
            unaudited_farm.audited()
            is_well = True
    finally:
        if not is_well:
            for worker in unaudited_farm.workers.values():
                print(f"--- {worker.name}\n{worker.last_words}")
            unaudited_farm.end_since(before)


@pytest.fixture
def pair(farm: FaultyFarm) -> tuple[Process, Process]:
    """Two workers of the tiny model that are ready, started again if an earlier test ended them."""
    two = [farm.workers.get(name) or farm.worker(name) for name in ("left", "right")]
    farm.start(*(worker for worker in two if not worker.is_running))
    return two[0], two[1]
