"""Publishing a finished job: image and trace under the attempt's own prefix, and its `result.json` last.

The ledger's fence then decides whether this attempt is the one that counts. Only the one that does is copied
to the job's own `result.json`, so an attempt that lost its lease can never replace the winner's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version

from farm import keys
from farm.ledger import Claim
from farm.results import JobResult, ModelUsed, ResultObject
from farm.spec import JobSpec
from farm.storage import Storage
from worker.engine.request import Rendered
from worker.png import encode_png
from worker.trace import TraceFile

_REPORTED_PACKAGES = ("render-farm", "torch", "diffusers", "transformers")


def package_versions() -> dict[str, str]:
    """The versions that decide what a picture looks like."""
    return {name: version(name) for name in _REPORTED_PACKAGES}


class Publisher:
    """Writes results of one worker. Methods raise `StorageError`."""

    def __init__(self, storage: Storage, *, worker: str, device: str) -> None:
        self._storage = storage
        self._worker = worker
        self._device = device
        self._versions = package_versions()

    def upload(
        self, claim: Claim, spec: JobSpec, model: ModelUsed, rendered: Rendered, trace: Iterable[TraceFile]
    ) -> dict[str, ResultObject]:
        """Upload the attempt's image and trace. Returns them by name."""
        objects = {
            "image.png": self._put(claim, "image.png", encode_png(rendered.pixels, spec, model), "image/png"),
        }
        for file in trace:
            objects[file.name] = self._put(claim, file.name, file.path.read_bytes(), file.content_type)
        return objects

    def seal(
        self,
        claim: Claim,
        spec: JobSpec,
        model: ModelUsed,
        rendered: Rendered,
        objects: Mapping[str, ResultObject],
        *,
        dtype: str,
        timings: Mapping[str, float],
    ) -> JobResult:
        """Write the attempt's `result.json`: from now on it is complete."""
        result = JobResult(
            job=claim.job,
            batch=keys.batch_of(claim.job),
            attempt=claim.attempt,
            worker=self._worker,
            spec=spec,
            objects=dict(objects),
            model=model,
            device=self._device,
            dtype=dtype,
            timings={name: round(seconds, 4) for name, seconds in timings.items()},
            versions=self._versions,
            warnings=rendered.warnings,
            finished=datetime.now(UTC),
        )
        self._storage.put(keys.attempt_result(claim.job, claim.attempt), _json(result), "application/json")
        return result

    def crown(self, result: JobResult) -> None:
        """Make a sealed attempt the job's result in the bucket too, after the ledger has accepted it."""
        self._storage.put(keys.result(result.job), _json(result), "application/json")

    def _put(self, claim: Claim, name: str, data: bytes, content_type: str) -> ResultObject:
        key = keys.attempt_object(claim.job, claim.attempt, name)
        self._storage.put(key, data, content_type)
        return ResultObject(key=key, sha256=hashlib.sha256(data).hexdigest(), size=len(data), content_type=content_type)


def _json(result: JobResult) -> bytes:
    return result.model_dump_json(indent=2).encode()
