from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import build_tiny_model, build_tiny_xl
from tests.worker.diffusion.conftest import load, one_thread
from worker.models.model import LoadedModel

__all__ = ["one_thread"]


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="session")
def xl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_xl(tmp_path_factory.mktemp("xl"))


@pytest.fixture(scope="session")
def sd(sd_folder: Path) -> LoadedModel:
    return load(sd_folder)


@pytest.fixture(scope="session")
def xl(xl_folder: Path) -> LoadedModel:
    return load(xl_folder)
