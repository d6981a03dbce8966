"""Studies asked of a tiny model, on the thread of the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import pytest
from PIL import Image

from farm.jobs.request import JobRequest
from farm.jobs.spec import InitReference
from tests.tiny import build_tiny_model
from tests.worker.diffusion.conftest import load
from worker.diffusion.losses import load_losses
from worker.engine.request import resolve
from worker.models.model import LoadedModel
from worker.studies import kinds
from worker.studies.study import Answered, Asked, T

_INIT = InitReference(sha256="0" * 64, extension="png")


class Ask(Protocol):
    def __call__(self, *, has_room: bool = True, **fields: Any) -> Any: ...


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(build_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """A gradient with a square in it, of the model's own size."""
    made = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    made.paste((220, 40, 30), (16, 16, 48, 48))
    return made


@pytest.fixture
def ask(model: LoadedModel, picture: Image.Image) -> Ask:
    """The answer to a request, of these fields, for a study."""

    def run(*, has_room: bool = True, **fields: Any) -> Answered:
        request = JobRequest.parse({"model": "tiny", **({"init": b"picture"} if _starts(fields) else {}), **fields})
        (spec,) = request.specs(_INIT if _starts(fields) else None, default_model="tiny")
        asked = Asked(
            resolve(spec, model, load_losses()), model, picture if _starts(fields) else None, lambda _: has_room
        )
        return kinds.BY_NAME[spec.mode](asked, at_once)

    return run


def at_once(work: Callable[[], T]) -> T:
    return work()


def _starts(fields: dict[str, Any]) -> bool:
    return bool(fields["mode"] == "roundtrip")
