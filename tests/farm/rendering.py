"""A stand-in for a worker: it renders nothing, and leaves behind what a worker does."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from farm import keys
from farm.bucket.results import JobResult, ModelUsed, ResultObject
from farm.client import FarmClient
from farm.jobs.spec import JobSpec
from farm.pictures.provenance import SPEC_KEY

_KINDS = {
    ".png": "image/png",
    ".jsonl": "application/jsonl",
    ".json": "application/json",
    ".npz": "application/zip",
}
TRACE = b'{"step": 1}\n'


@dataclass
class Rendering:
    """A job that was rendered, as a worker does it, with no engine at all."""

    client: FarmClient
    job: str
    attempt: int
    picture: bytes

    def key(self, name: str) -> str:
        return keys.attempt_object(self.job, self.attempt, name)


def render(
    client: FarmClient,
    job: str,
    *,
    warnings: tuple[str, ...] = (),
    answer: Mapping[str, bytes] | None = None,
    scale: float | None = None,
) -> Rendering:
    """Do a queued job. A study is given its `answer`, the objects that it leaves by name. `scale` is the model's own
    guidance, for a job that says none."""
    claim = client.ledger.claim(job, "w1")
    assert claim is not None
    spec = client.ledger.spec(job)
    if scale is not None and spec.guidance.scale is None:
        spec = spec.model_copy(update={"guidance": spec.guidance.model_copy(update={"scale": scale})})
    picture = png_of(spec)
    made = Rendering(client, job, claim.attempt, picture)
    objects = {}
    for name, data in (answer or {"image.png": picture, "trace.jsonl": TRACE}).items():
        kind = _KINDS[Path(name).suffix]
        client.storage.put(made.key(name), data, kind)
        digest = hashlib.sha256(data).hexdigest()
        objects[name] = ResultObject(key=made.key(name), sha256=digest, size=len(data), content_type=kind)
    result = JobResult(
        job=job,
        batch=keys.batch_of(job),
        attempt=claim.attempt,
        worker="w1",
        spec=spec,
        objects=objects,
        model=ModelUsed(name="emoji", source="here", revision=None),
        device="cpu",
        dtype="float32",
        timings={},
        versions={},
        warnings=warnings,
        finished=datetime.now(UTC),
    )
    key = keys.attempt_result(job, claim.attempt)
    client.storage.put(key, result.model_dump_json().encode(), "application/json")
    assert client.ledger.finish(claim, "w1", "done", {"result": key, "warnings": json.dumps(warnings)})
    return made


def png_of(spec: JobSpec) -> bytes:
    """A plain picture that carries its spec, and tells other tools a little."""
    info, file = PngInfo(), io.BytesIO()
    info.add_text("parameters", f"{spec.prompt}\nSteps: {spec.steps}, Sampler: Euler a, Seed: {spec.seed}")
    info.add_itxt(SPEC_KEY, spec.to_json())
    Image.new("RGB", (64, 64), "teal").save(file, "PNG", pnginfo=info)
    return file.getvalue()
