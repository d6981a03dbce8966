"""A farm in memory with one worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.worker import FakeFarm, FakeWorker


@pytest.fixture
def farm() -> FakeFarm:
    return FakeFarm()


@pytest.fixture
def worker(farm: FakeFarm, tmp_path: Path) -> FakeWorker:
    return FakeWorker(farm, tmp_path)
