"""Real servers in homes of their own; whatever a test started is dead when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from farm.settings import Settings
from tests.stack.farms import Farm, end


@pytest.fixture
def new_farm(tmp_path: Path) -> Iterator[Callable[[str], Farm]]:
    """Makes farms with homes of the given names, and ends them."""
    made: list[Farm] = []

    def make(name: str = "a farm's home, with spaces") -> Farm:
        made.append(Farm(tmp_path / name))
        return made[-1]

    yield make
    for farm in made:
        end(farm)


@pytest.fixture
def farm(new_farm: Callable[[], Farm]) -> Farm:
    return new_farm()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Farm, Settings]]:
    """One running farm with two workers for the tests that only look."""
    farm = Farm(tmp_path_factory.mktemp("stack") / "a farm, running")
    try:
        yield farm, farm.start(workers=2, models=("emoji=/dev/null",))
    finally:
        end(farm)
