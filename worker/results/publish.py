"""Publishing a finished job: image and trace under the attempt's own prefix, and its `result.json` last.

The ledger's fence then decides whether this attempt is the one that counts (see `worker.results.promote`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version

import farm
from farm import keys
from farm.bucket.results import JobResult, ResultObject
from farm.bucket.storage import Storage
from farm.ledger.records import Claim
from worker.results.finished import Artifact, Finished

_REPORTED_PACKAGES = ("torch", "diffusers", "transformers")


def package_versions() -> dict[str, str]:
    """The versions that decide what a picture looks like."""
    return {"render-farm": farm.__version__, **{name: version(name) for name in _REPORTED_PACKAGES}}


class Publisher:
    """Writes results of one worker. Methods raise `StorageError`."""

    def __init__(self, storage: Storage, *, worker: str, device: str) -> None:
        self._storage = storage
        self._worker = worker
        self._device = device
        self._versions = package_versions()

    def upload(self, claim: Claim, finished: Finished, objects: dict[str, ResultObject]) -> None:
        """Upload what an attempt has made, adding to `objects` by name; what is there already is not sent again."""
        for artifact in finished.artifacts:
            if artifact.name not in objects:
                objects[artifact.name] = self._put(claim, artifact)

    def seal(self, claim: Claim, finished: Finished, objects: Mapping[str, ResultObject]) -> JobResult:
        """Write the attempt's `result.json`: from now on it is complete."""
        result = JobResult(
            job=claim.job,
            batch=keys.batch_of(claim.job),
            attempt=claim.attempt,
            worker=self._worker,
            spec=finished.spec,
            objects=dict(objects),
            model=finished.model,
            device=self._device,
            dtype=finished.dtype,
            timings={name: round(seconds, 4) for name, seconds in finished.timings.items()},
            versions=self._versions,
            warnings=finished.warnings,
            finished=datetime.now(UTC),
            **dict(finished.report),
        )
        self._storage.put(keys.attempt_result(claim.job, claim.attempt), result.to_json(), "application/json")
        return result

    def _put(self, claim: Claim, artifact: Artifact) -> ResultObject:
        key, data = keys.attempt_object(claim.job, claim.attempt, artifact.name), artifact.read()
        self._storage.put(key, data, artifact.content_type)
        digest = hashlib.sha256(data).hexdigest()
        return ResultObject(key=key, sha256=digest, size=len(data), content_type=artifact.content_type)
