"""Batch manifests: every spec of a submission, as one object in the bucket from which it can be queued again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from farm import keys
from farm.bucket.storage import Storage
from farm.errors import InvalidInput
from farm.jobs.faults import invalid
from farm.jobs.spec import MAX_LABELS, JobSpec, Labels, Priority
from farm.ledger.records import NewJob

MAX_MANIFEST_BYTES = 256 * 2**20


class ManifestJob(BaseModel):
    """One job of a batch manifest."""

    model_config = ConfigDict(frozen=True)

    id: str
    spec: JobSpec
    priority: Priority
    labels: Annotated[Labels, Field(max_length=MAX_LABELS)]


class BatchManifest(BaseModel):
    """`batches/<batch>.json`: every spec of a submission, enough to queue it all again.

    Its jobs are those of its own batch, numbered in order.
    """

    model_config = ConfigDict(frozen=True)

    version: int = 1
    batch: str
    jobs: Annotated[tuple[ManifestJob, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_only_its_own(self) -> Self:
        for index, job in enumerate(self.jobs):
            if not keys.is_batch_id(self.batch) or job.id != keys.job_in_batch(self.batch, index):
                raise ValueError(f"its job {index} has the wrong id {job.id!r:.60}")
        return self


def read_manifest(storage: Storage, batch: str) -> BatchManifest:
    """The manifest of a submission. Raises `ObjectMissing`, `InvalidInput`."""
    key = keys.batch_manifest(batch)
    try:
        manifest = BatchManifest.model_validate_json(storage.get(key, limit=MAX_MANIFEST_BYTES))
    except ValidationError as error:
        raise InvalidInput(f"{key} is not a batch manifest: {invalid(error)}") from error
    if manifest.batch != batch:
        raise InvalidInput(f"{key} is the manifest of another batch, {manifest.batch}")
    return manifest


def batches_in(storage: Storage) -> Iterator[str]:
    """The id of every batch whose manifest is in the bucket. Raises `StorageError`."""
    for stored in storage.list(keys.BATCHES):
        batch = stored.key.removeprefix(keys.BATCHES).removesuffix(".json")
        if keys.is_batch_id(batch) and stored.key == keys.batch_manifest(batch):
            yield batch


def written_manifest(batch: str, jobs: Sequence[NewJob]) -> bytes:
    """The manifest of a submission as `read_manifest` takes it. Raises `InvalidInput` if it is too large for that."""
    manifest = BatchManifest(
        batch=batch,
        jobs=tuple(ManifestJob(id=j.id, spec=j.spec, priority=j.priority, labels=j.labels) for j in jobs),
    )
    if sum(len(job.spec.prompt.encode()) for job in manifest.jobs) <= MAX_MANIFEST_BYTES:  # before it takes memory
        data = manifest.model_dump_json().encode()
        if len(data) <= MAX_MANIFEST_BYTES:
            return data
    raise InvalidInput(
        f"the specs of {len(manifest.jobs):,} jobs take more than {MAX_MANIFEST_BYTES // 2**20} MiB",
        hint="submit them as several batches",
    )
