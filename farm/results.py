"""`result.json`, the commit marker of a job: what was made, from what, where, and how long it took."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from farm.errors import StorageError
from farm.spec import JobSpec


class ResultObject(BaseModel):
    """One object of the winning attempt: its key in the bucket, SHA-256 and size in bytes."""

    model_config = ConfigDict(frozen=True)

    key: str
    sha256: str
    size: int
    content_type: str


class ModelUsed(BaseModel):
    """Which weights made the picture."""

    model_config = ConfigDict(frozen=True)

    name: str
    source: str
    revision: str | None


class JobResult(BaseModel):
    """Everything `result.json` says. `objects` maps a name such as `image.png` to its object; times in seconds.

    `spec` is resolved: width, height and guidance scale are the ones used.
    """

    model_config = ConfigDict(frozen=True)

    version: int = 1
    job: str
    batch: str
    attempt: int
    worker: str
    spec: JobSpec
    objects: dict[str, ResultObject]
    model: ModelUsed
    device: str
    dtype: str
    timings: dict[str, float]
    versions: dict[str, str]
    warnings: tuple[str, ...]
    finished: datetime

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=2).encode()

    @classmethod
    def from_json(cls, data: bytes, *, key: str) -> JobResult:
        """The result in `data`. Raises `StorageError` naming `key` if it is not one."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise StorageError(f"{key} is not a result this version reads: {error.errors()[0]['msg']}") from error
