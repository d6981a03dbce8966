"""LoRAs from the command line to the picture: added, named in prompts, found in the picture, and removed."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from farm.client import FarmClient
from farm.client.loras import add, remove
from farm.jobs.request import JobRequest
from farm.jobs.status import JobStatus
from tests.integration.conftest import Launcher

Shell = Callable[..., subprocess.CompletedProcess[str]]
Finish = Callable[[list[str]], list[JobStatus]]

_BLOCK = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"
_LAYERS = (f"{_BLOCK}_attn1_to_q", f"{_BLOCK}_attn2_to_k", "lora_te_text_model_encoder_layers_0_self_attn_q_proj")


def write_lora(path: Path, *, seed: int = 0, width: int = 32) -> Path:
    """A LoRA of rank 4 for layers of the tiny model, which are 32 wide."""
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in _LAYERS:
        weights[f"{layer}.lora_down.weight"] = torch.randn(4, width, generator=draw)
        weights[f"{layer}.lora_up.weight"] = torch.randn(width, 4, generator=draw)
    save_file(weights, path)
    return path


def pixels(client: FarmClient, job: str) -> bytes:
    picture = client.result(job).picture
    with Image.open(io.BytesIO(client.storage.get(picture.key, limit=picture.size))) as image:
        return image.tobytes()


def test_a_picture_has_its_lora_and_is_made_again_with_it(
    client: FarmClient, launch: Launcher, shell: Shell, finish: Finish, tmp_path: Path
) -> None:
    launch("adapting", "--deterministic", model="adapting")
    style, other = (write_lora(tmp_path / f"{seed}.safetensors", seed=seed) for seed in (0, 1))
    shell("loras", "add", f"style={style}")
    add(client.ledger, client.storage, "other", str(other))

    def made(*asked: dict[str, Any]) -> list[str]:
        about = {"model": "adapting", "steps": 4, "seed": 3}
        jobs = client.submit([JobRequest.parse({"prompt": "a cat", **about, **one}) for one in asked]).jobs
        assert [status.state for status in finish(list(jobs))] == ["done"] * len(jobs)
        return list(jobs)

    without, weightless, by_tag, by_field, text_alone, both = made(
        {},
        {"loras": [{"name": "style", "weight": 0}]},
        {"prompt": "a cat <lora:style:0.8>"},
        {"loras": [{"name": "style", "weight": 0.8}]},
        {"prompt": "a cat <lora:style:1:0>"},
        {"loras": [{"name": "style", "weight": 0.8}, {"name": "other", "weight": -1}]},
    )
    assert pixels(client, without) == pixels(client, weightless)
    assert pixels(client, by_tag) == pixels(client, by_field)
    assert len({pixels(client, job) for job in (without, by_tag, text_alone, both)}) == 4

    add(client.ledger, client.storage, "style", str(other), replace=True)
    add(client.ledger, client.storage, "as-it-was", str(style))
    [file] = [fetched.path for fetched in client.fetch(both, tmp_path / "renders")]
    again = json.loads(shell("rerun", str(file), "--wait", "--json").stdout.splitlines()[-1])
    assert again["same_bytes"] is True, "it has the file that it was made with"
    assert client.result(again["job"]).spec == client.result(both).spec
    [renamed] = made({"prompt": "a cat <lora:style:0.8>"})
    assert pixels(client, renamed) != pixels(client, by_tag), "the name means another by now"
    assert "lora style 0.8 · lora other -1" in shell("status", both).stdout

    shell("loras", "remove", "as-it-was")
    for name in ("style", "other"):
        remove(client.ledger, client.storage, name)
    assert "keeps the file of the LoRA 'style' no longer" in shell("rerun", str(file), code=2).stderr


def test_a_lora_that_no_worker_can_read_fails_its_job_alone(
    client: FarmClient, worker: object, submit: Callable[..., list[str]], finish: Finish, tmp_path: Path
) -> None:
    wider = write_lora(tmp_path / "wider.safetensors", width=48)
    add(client.ledger, client.storage, "wider", str(wider))
    add(client.ledger, client.storage, "good", str(write_lora(tmp_path / "good.safetensors", seed=4)))
    jobs = [*submit(loras=[{"name": "good"}, {"name": "wider"}]), *submit(loras=[{"name": "good"}]), *submit()]
    first, *others = finish(jobs)

    assert first.state == "failed" and first.error and first.error.kind == "lora"
    assert "'wider' does not fit the model '" in first.error.message and str(tmp_path) not in first.error.message
    assert [status.state for status in others] == ["done", "done"]
    for name in ("good", "wider"):
        remove(client.ledger, client.storage, name)
