"""`result.json`, the commit marker of a job: what was made, from what, where, and how long it took."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from farm import keys
from farm.errors import InvalidInput, ObjectDamaged, WrongState
from farm.jobs.faults import invalid
from farm.jobs.report import RenderReport
from farm.jobs.spec import JobSpec

IMAGE = "image.png"
ANSWER = "answer.json"
"""What a study answers."""
MAX_OBJECT_BYTES = 4 * 2**30
MAX_OBJECTS = 10_000


class ResultObject(BaseModel):
    """One object of the winning attempt: its key in the bucket, SHA-256 and size in bytes."""

    model_config = ConfigDict(frozen=True)

    key: str
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0, le=MAX_OBJECT_BYTES)]
    content_type: str


class ModelUsed(BaseModel):
    """Which weights made the picture. `sha256` is that of a single file, where the weights are one; `vae` names the
    file whose autoencoder took the place of the model's own, if one did."""

    model_config = ConfigDict(frozen=True)

    name: str
    source: str
    revision: str | None
    sha256: str | None = None
    vae: str | None = None
    vae_sha256: str | None = None


class JobResult(RenderReport):
    """Everything `result.json` says. `objects` maps a name such as `image.png` to its object; times in seconds.

    The job of a picture has an `image.png`, a study an `answer.json`. `spec` is the `ResolvedSpec` that was rendered,
    and is read as any other spec. Every key is the one that this job's attempt and the object's name make, so that a
    result cannot point at anything else in the bucket. What else a newer farm says is kept as it is.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    version: int = 1
    job: str
    batch: str
    attempt: Annotated[int, Field(ge=0, le=keys.MAX_ATTEMPT)]
    worker: str
    spec: JobSpec
    objects: Annotated[dict[str, ResultObject], Field(max_length=MAX_OBJECTS)]
    model: ModelUsed
    device: str
    dtype: str
    timings: dict[str, float]
    versions: dict[str, str]
    warnings: tuple[str, ...]
    finished: datetime

    @model_validator(mode="after")
    def _names_only_its_own(self) -> Self:
        try:
            belongs = self.batch == keys.batch_of(self.job)
            expected = {name: keys.attempt_object(self.job, self.attempt, name) for name in self.objects}
        except InvalidInput as error:
            raise ValueError(error.message) from error
        wanted = (*([IMAGE] if self.spec.has_picture else []), *([ANSWER] if self.spec.is_study else []))
        for name in wanted:
            if name not in self.objects:
                raise ValueError(f"it has no {name}")
        if not belongs:
            raise ValueError(f"the job {self.job} belongs to another batch")
        for name, stored in self.objects.items():
            if stored.key != expected[name]:
                raise ValueError(f"'{name}' has the key {stored.key!r:.200}, not {expected[name]}")
        return self

    @property
    def picture(self) -> ResultObject:
        """The object that is its picture. Raises `WrongState` for a study that makes none."""
        if IMAGE not in self.objects:
            raise WrongState(
                f"job {self.job} answers '{self.spec.mode}' and has no picture",
                hint=f"'farm fetch {self.job}' brings its answer",
            )
        return self.objects[IMAGE]

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=2).encode()

    @classmethod
    def from_json(cls, data: bytes, *, key: str) -> JobResult:
        """The result in `data`. Raises `ObjectDamaged` naming `key` if it is not one."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise ObjectDamaged(f"{key} is not a result that this version can read: {invalid(error)}") from error
