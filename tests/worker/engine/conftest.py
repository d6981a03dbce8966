"""A tiny model, and jobs to try the engine with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from farm.jobs.losses import BUILTIN
from farm.jobs.request import JobRequest
from farm.jobs.spec import InitReference, JobSpec, ResolvedSpec
from tests.tiny import build_tiny_model, build_tiny_xl
from worker.diffusion.losses import load_losses
from worker.engine.engine import Engine
from worker.engine.request import RenderRequest, resolve
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.model import LoadedModel
from worker.models.registry import LocalDirectory

SomeImage = InitReference(sha256="0" * 64, extension="png")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    directory = build_tiny_model(tmp_path_factory.mktemp("tiny"))
    return ModelLoader(place("cpu"), cache=directory / "cache").load("tiny", LocalDirectory(directory))


@pytest.fixture(scope="session")
def xl(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model of another family, with rows of the same size."""
    directory = build_tiny_xl(tmp_path_factory.mktemp("xl"))
    return ModelLoader(place("cpu"), cache=directory / "cache").load("xl", LocalDirectory(directory))


@pytest.fixture
def engines() -> Iterator[Callable[..., Engine]]:
    """Makes started engines, and stops them when the test is over."""
    started: list[Engine] = []

    def make(**options: Any) -> Engine:
        engine = Engine(load_losses(), **{"max_rows": 8, **options})
        engine.start()
        started.append(engine)
        return engine

    yield make
    for engine in started:
        engine.stop()


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    return Image.linear_gradient("L").resize((64, 64)).convert("RGB")


@pytest.fixture
def request_for(model: LoadedModel, picture: Image.Image) -> Callable[..., RenderRequest]:
    """A request for the engine, from the fields of a submission."""

    def make(
        id: str, *, priority: int = 5, observer: Any = None, of: LoadedModel = model, **fields: Any
    ) -> RenderRequest:
        spec = spec_of(**fields)
        extra = {"observer": observer} if observer else {}
        return RenderRequest(
            id=id,
            spec=resolve(spec, of, load_losses()),
            model=of,
            priority=priority,
            picture=picture if spec.start.image else None,
            **extra,
        )

    return make


def resolved(**fields: Any) -> ResolvedSpec:
    """A spec that says its size and guidance."""
    spec = spec_of(**{"width": 64, "height": 64, **fields})
    assert spec.width and spec.height and spec.guidance.scale is not None
    scales = {loss.name: loss.default_scale for loss in BUILTIN}
    return ResolvedSpec.of(spec, width=spec.width, height=spec.height, scale=spec.guidance.scale, loss_scales=scales)


def spec_of(**fields: Any) -> JobSpec:
    fields = {"prompt": "a cat", "seed": 1, "steps": 6, "guidance": 7.5, **fields}
    if fields.pop("from_image", False):
        fields["init"] = Path("picture.png")
    return JobRequest.parse(fields).specs(SomeImage, default_model="tiny")[0]
