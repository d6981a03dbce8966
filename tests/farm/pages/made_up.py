"""Results of jobs that nobody rendered, with all that a worker writes down, in a bucket in memory or a real one."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from PIL import Image

from farm import keys
from farm.bucket.results import JobResult
from farm.bucket.storage import Storage
from farm.jobs.spec import JobSpec
from tests.ledgers import BATCH

JOB = f"{BATCH}-0000"
SIDE = 64
LEFT_OUT = object()
KINDS = {
    **{"png": "image/png", "jpeg": "image/jpeg", "mp4": "video/mp4"},
    **{"jsonl": "application/jsonl", "json": "application/json"},
}


def spec(*, steps: int = 12, start: int | dict[str, Any] = 0, level: str = "frames", **fields: Any) -> JobSpec:
    """A job's spec: a mix of two prompts that one loss guides."""
    image = {"sha256": "a" * 64, "extension": "png", "width": 80, "height": 64} if start else None
    return JobSpec.model_validate(
        {
            "mode": "mix",
            "model": "emoji",
            "conditioning": {
                "prompts": [{"text": "an otter", "weight": 0.75}, {"text": "a cat", "weight": 0.25}],
                "negative": "a dog",
            },
            "start": start if isinstance(start, dict) else {"image": image, "step": start},
            "guidance": {"scale": 7.5, "losses": [{"name": "blue", "scale": 20.0, "every": 2}]},
            "steps": steps,
            "seed": 7,
            "width": SIDE,
            "height": SIDE,
            "trace": {"level": level},
            **fields,
        }
    )


def sigmas(steps: int) -> list[float]:
    return [14.6 * 0.002 ** (step / max(1, steps - 1)) for step in range(steps)]


def lines(of: JobSpec) -> list[dict[str, Any]]:
    """The lines of `trace.jsonl`."""
    every = of.guidance.losses[0].every if of.guidance.losses else 0
    return [
        {
            "step": step,
            "timestep": 999 - step,
            "sigma": sigmas(of.steps)[step],
            "norms": {
                **{"x": 30.0 - step, "x_next": 29.0 - step, "x0": 10.0 + math.sin(step), "output": 28.0},
                **{"conditional": 26.0 + step / 5, "unconditional": 25.0},
            },
            "guidance": {"angle": 5.0 + step, "distance": 1.0 + step / 4},
            "x0_change": None if step == of.start.step else 3.0 / step,
            "losses": {"blue": 0.5 - step / 50} if every and step % every == 0 else {},
        }
        for step in range(of.start.step, of.steps)
    ]


def told(of: JobSpec) -> dict[str, Any]:
    """What a result says beyond what every result does."""
    prompts = [("prompt", prompt.text, prompt.weight) for prompt in of.conditioning.prompts]
    return {
        "timings": {
            **{"queued": 0.4, "model": 0.2, "text": 0.1, "render": 1.5, "decode": 0.3, "total": 2.4, "publish": 0.2},
        },
        "prompts": [
            {
                "role": role,
                "weight": weight,
                "tokens": [{"id": 300 + number, "piece": f"{word}</w>"} for number, word in enumerate(text.split())],
                "cut": ["with", "whiskers"] if text == "a cat" else [],
            }
            for role, text, weight in (*prompts, ("negative", of.conditioning.negative, 1.0))
        ],
        "losses": {
            loss.name: [[line["step"], line["losses"][loss.name]] for line in lines(of) if loss.name in line["losses"]]
            for loss in of.guidance.losses
        },
        "schedule": {
            "spacing": "karras",
            "timesteps": [999 - step for step in range(of.steps)],
            "sigmas": sigmas(of.steps),
        },
    }


def picture(kind: str = "PNG", *, width: int = SIDE, height: int = SIDE, shade: int = 128) -> bytes:
    file = io.BytesIO()
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    Image.blend(image, Image.new("RGB", (width, height), (shade, 90, 255 - shade)), 0.6).save(file, kind)
    return file.getvalue()


def objects(of: JobSpec) -> dict[str, bytes]:
    """What the job leaves besides its result."""
    made = {"image.png": picture()}
    if of.trace.level != "none":
        made["trace.jsonl"] = "".join(f"{json.dumps(line)}\n" for line in lines(of)).encode()
    if of.trace.level in ("frames", "video"):
        for step in range(of.start.step, of.steps):
            shade = round(255 * step / of.steps)
            made[f"trace/{step:04d}.jpeg"] = picture("JPEG", width=2 * SIDE, shade=shade)
        if of.start.image is not None:
            made["trace/start.jpeg"] = picture("JPEG", width=2 * SIDE)
    return made


def put(
    storage: Storage,
    of: JobSpec,
    *,
    job: str = JOB,
    changed: Mapping[str, bytes | None] | None = None,
    **fields: Any,
) -> JobResult:
    """Put a job's objects into the bucket, with those that are `changed` (None: without it), and give its result."""
    made = {name: data for name, data in (objects(of) | dict(changed or {})).items() if data is not None}
    described = {}
    for name, data in made.items():
        key, kind = keys.attempt_object(job, 1, name), KINDS[name.rpartition(".")[2]]
        storage.put(key, data, kind)
        digest = hashlib.sha256(data).hexdigest()
        described[name] = {"key": key, "sha256": digest, "size": len(data), "content_type": kind}
    document = {
        "job": job,
        "batch": keys.batch_of(job),
        "attempt": 1,
        "worker": "w1",
        "spec": of.model_dump(mode="json"),
        "objects": described,
        "model": {"name": "emoji", "source": "bundled", "revision": "abc"},
        "device": "cpu",
        "dtype": "float32",
        "versions": {"torch": "2.13.0", "render-farm": "0.1.0"},
        "warnings": [],
        "finished": datetime(2026, 1, 2, 3, 4, tzinfo=UTC).isoformat(),
        **told(of),
        **fields,
    }
    document = {name: value for name, value in document.items() if value is not LEFT_OUT}
    key = keys.attempt_result(job, 1)
    storage.put(key, json.dumps(document).encode(), "application/json")
    return JobResult.from_json(json.dumps(document).encode(), key=key)


def without(*names: str) -> dict[str, Any]:
    """Fields of a result that an older worker did not write."""
    return dict.fromkeys(names, LEFT_OUT)
