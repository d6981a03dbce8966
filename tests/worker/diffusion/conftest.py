from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.tiny import LMS_CONFIG, PNDM_CONFIG, build_tiny_model, build_tiny_xl
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.model import LoadedModel
from worker.models.registry import LocalDirectory


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Layers this small lose more by waiting for a second thread than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", params=["epsilon", "v_prediction"])
def any_tiny_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model that predicts ε, configured as SD 1.4 is published, and one that predicts v."""
    directory = tmp_path_factory.mktemp(request.param)
    config = PNDM_CONFIG if request.param == "epsilon" else LMS_CONFIG
    return load(build_tiny_model(directory, prediction_type=request.param, scheduler_config=config))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(build_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def tiny_xl(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(build_tiny_xl(tmp_path_factory.mktemp("xl")))


def load(directory: Path) -> LoadedModel:
    return ModelLoader(place("cpu"), cache=directory / "cache").load("tiny", LocalDirectory(directory))
