"""What a study is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from PIL import Image

from farm.jobs.answers import Answer
from farm.jobs.spec import ResolvedSpec
from worker.models.model import LoadedModel
from worker.results.finished import Artifact

T = TypeVar("T")


class Compute(Protocol):
    """Has work done where the model may be used, which is one thread for all jobs. Between two pieces others go on.

    Raises what the work does, and what ends the job meanwhile.
    """

    def __call__(self, work: Callable[[], T]) -> T: ...


@dataclass(frozen=True)
class Asked:
    """A study of one job: its spec, the model that answers, and the init picture at the spec's size, if there is one.

    `has_room` says whether a picture of latents of this shape [4, h, w] fits into memory whole.
    """

    spec: ResolvedSpec
    model: LoadedModel
    picture: Image.Image | None = None
    has_room: Callable[[tuple[int, ...]], bool] = lambda _: True

    @property
    def prompts(self) -> list[str]:
        return [prompt.text for prompt in self.spec.conditioning.prompts]


@dataclass(frozen=True)
class Answered:
    """An answer, the files beside it, and what the user should know."""

    answer: Answer
    artifacts: tuple[Artifact, ...] = ()
    warnings: tuple[str, ...] = ()


Study = Callable[[Asked, Compute], Answered]
