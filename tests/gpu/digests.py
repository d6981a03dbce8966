"""One process's pictures, as digests: `python -m tests.gpu.digests whole|other|usual KIND DEVICE SCRATCH`.

    whole   deterministic: a full batch of unlike jobs, then some of them alone, and some resumed
    other   deterministic: the same batch from its end, so that each job has another place in it
    usual   not deterministic: the batch alone, for its time

Prints one JSON object.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.gpu.subjects import Subjects, requests
from tests.gpu.works import engine, suspended
from worker.bench.measure import synchronize
from worker.bench.workloads import Job
from worker.diffusion.conditioning import Conditioning
from worker.diffusion.determinism import choose_deterministic_kernels
from worker.models.model import LoadedModel

_LONGEST = 300.0
_ALONE = 6
"""Jobs, one of each mode."""
_SHOWN = 8


def main(how: str, kind: Any, device: str, scratch: Path) -> dict[str, Any]:
    """What the process finds."""
    careful = how != "usual"
    if careful:
        choose_deterministic_kernels()
    subjects = Subjects(torch.device(device), scratch)
    model = subjects.load(kind, subjects.placement(subjects.dtype))
    jobs = subjects.unlike(model, subjects.rows // 2, steps=subjects.steps)
    if how == "other":
        jobs.reverse()
    with engine(subjects.rows, deterministic=careful) as one:
        _digests(one, model, jobs[:1])  # what happens only once is not timed
        synchronize()
        began = time.monotonic()
        found: dict[str, Any] = {"rows": subjects.rows, "company": _digests(one, model, jobs)}
        found["seconds"] = time.monotonic() - began
        if how == "whole":
            found["alone"] = {
                job.id: digest for job in jobs[:_ALONE] for digest in _digests(one, model, [job]).values()
            }
            snapshots = {request.id: suspended(one, request, 1) for request in requests(model, jobs[:_ALONE])}
    if how == "whole":
        with engine(subjects.rows, deterministic=True) as another:
            found["resumed"] = {
                job.id: _digest(another.submit(replace(request, resume=snapshots[job.id])).result(_LONGEST).pixels)
                for job, request in zip(jobs, requests(model, jobs[:_ALONE]), strict=False)
            }
    if how != "other":
        found["moving"] = _moving(model, subjects.rows)
    return found


def _digests(one: Any, model: LoadedModel, jobs: Sequence[Job]) -> dict[str, str]:
    """The digest of each job's picture, all rendered together."""
    futures = {request.id: one.submit(request) for request in requests(model, jobs)}
    return {job: _digest(future.result(_LONGEST).pixels) for job, future in futures.items()}


def _digest(pixels: Any) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


@torch.no_grad()
def _moving(model: LoadedModel, rows: int) -> list[str]:
    """The first parts of the UNet that give equal rows unequal outputs, by their place in the batch."""
    draw = torch.Generator().manual_seed(0)
    row = torch.randn((1, *model.latent_shape), generator=draw).expand(rows, -1, -1, -1).contiguous().to(model.device)
    conditioning = Conditioning.stacked([model.conditioned(model.prompts.encode("a cat"))] * rows)
    timesteps = torch.full((rows,), 500.0, device=model.device)
    with _watched(model.unet) as moving:
        model.unet(row.to(model.dtype), timesteps, **conditioning.arguments)
    return moving[:_SHOWN]


@contextmanager
def _watched(module: nn.Module) -> Iterator[list[str]]:
    """Notes each innermost part whose inputs were equal rows, and whose outputs are not."""
    moving: list[str] = []

    def check(name: str, part: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        tensors = [tensor for tensor in given if isinstance(tensor, Tensor)]
        if isinstance(out, Tensor) and tensors and all(map(_equal_rows, tensors)) and not _equal_rows(out):
            moving.append(f"{name} ({type(part).__name__} {tuple(tensors[0].shape)})")

    handles = [
        part.register_forward_hook(lambda part, given, out, name=name: check(name, part, given, out))
        for name, part in module.named_modules()
        if not list(part.children()) or type(part).__name__ == "Attention"
    ]
    try:
        yield moving
    finally:
        for handle in handles:
            handle.remove()


def _equal_rows(tensor: Tensor) -> bool:
    return tensor.dim() == 0 or bool((tensor == tensor[:1]).all())


if __name__ == "__main__":
    how, kind, device, scratch = sys.argv[1:]
    print(json.dumps(main(how, kind, device, Path(scratch))))
