"""Models of two families on one worker, in jobs of every kind side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from farm.client import FarmClient
from farm.jobs.request import JobRequest
from tests.integration.conftest import Launcher
from tests.tiny import build_tiny_xl

KINDS: dict[str, dict[str, Any]] = {
    "txt2img": {"trace": "frames"},
    "img2img": {"mode": "img2img", "strength": 0.6, "negative": "blue"},
    "mix": {"mode": "mix", "prompt": ["a cat", "an otter"], "mix": 0.4, "trace": "video"},
    "guided": {"mode": "guided", "losses": [{"name": "blue", "every": 2}], "sampler": "euler_a"},
}


@pytest.fixture
def xl(tmp_path: Path) -> Path:
    return build_tiny_xl(tmp_path / "models" / "xl")


def test_jobs_of_two_families_share_a_worker(
    launch: Launcher, client: FarmClient, finish: Any, xl: Path, picture: Path
) -> None:
    """And each has the bytes that it has alone."""
    launch("both", "--deterministic", "--rows", "8", "--model", f"xl={xl}", model="sd")
    fields = {
        f"{name} {model}": {"prompt": "a cat", "model": model, "steps": 6, "seed": 3, **kind}
        for name, kind in KINDS.items()
        for model in ("sd", "xl")
    }
    fields["img2img sd"]["init"] = fields["img2img xl"]["init"] = str(picture)
    alone = {
        name: finish([client.submit([JobRequest.parse(fields[name])]).jobs[0]])[0].id
        for name in fields
        if name.endswith("xl")
    }
    together = dict(zip(fields, client.submit([JobRequest.parse(each) for each in fields.values()]).jobs, strict=True))
    assert {status.state for status in finish(list(together.values()))} == {"done"}

    for name, job in alone.items():
        objects, others = client.result(job).objects, client.result(together[name]).objects
        assert {key: one.sha256 for key, one in objects.items()} == {key: one.sha256 for key, one in others.items()}
    for name in KINDS:
        sd, of_xl = (client.result(together[f"{name} {model}"]).objects["image.png"] for model in ("sd", "xl"))
        assert sd.sha256 != of_xl.sha256
