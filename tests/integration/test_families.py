"""Models of two families on one worker, in jobs of every kind side by side."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from farm.client import FarmClient
from farm.client.rerun import submit_again
from farm.jobs.request import JobRequest
from farm.jobs.spec import Corner
from tests.integration.conftest import Launcher
from tests.tiny import build_tiny_xl
from tests.worker.models.original_layout import write_original_checkpoint

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
    fields["framed xl"] = {**fields["txt2img xl"], "original_size": "4096x2048", "crop": "128,0"}
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

    framed, whole = (client.result(together[name]).objects["image.png"] for name in ("framed xl", "txt2img xl"))
    [again] = submit_again(client, together["framed xl"]).jobs
    [refused] = client.submit([JobRequest(prompt="a cat", model="sd", crop=Corner(x=8))]).jobs
    assert [status.state for status in finish([again, refused])] == ["done", "failed"]
    assert client.result(again).objects["image.png"].sha256 == framed.sha256 != whole.sha256
    failed = client.ledger.get(refused).error
    assert failed and "crop: the model 'sd' is Stable Diffusion, and only models of SDXL are told" in failed.message


def test_a_file_of_sdxl_and_an_autoencoder_make_the_picture_of_the_folder(
    launch: Launcher, client: FarmClient, finish: Any, xl: Path, tmp_path: Path
) -> None:
    vae = xl / "vae" / "diffusion_pytorch_model.safetensors"
    file = write_original_checkpoint(xl, tmp_path / "one.safetensors")
    lacking = {key: value for key, value in load_file(file).items() if not key.startswith("first_stage_model.")}
    save_file(lacking, file)
    launch("files", "--model", f"xl={xl}", "--model", f"one={file}#config={xl}#vae={vae}", model="sd")
    made = []
    for model in ("xl", "one"):
        [job] = client.submit([JobRequest(prompt="a cat", model=model, steps=4, seed=3)]).jobs
        assert finish([job])[0].state == "done"
        data = client.storage.get(client.result(job).objects["image.png"].key)
        made.append(np.asarray(Image.open(io.BytesIO(data))).astype(int))
    assert np.abs(made[0] - made[1]).max() <= 1, "but for the last bits of a float"
    used = client.result(job).model
    assert (used.vae, used.source) == (vae.name, f"{file}#config={xl}#vae={vae}")
    assert used.vae_sha256 == hashlib.sha256(vae.read_bytes()).hexdigest()
    assert used.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
