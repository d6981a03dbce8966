"""Renders with what the recipes add, and prints what became of it: run by itself, on changed copies of the packages."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from farm.jobs.request import JobRequest
from tests.tiny import LMS_CONFIG, build_tiny_model
from worker.diffusion.losses import load_losses
from worker.diffusion.plans import plan
from worker.diffusion.schedules import read_schedule
from worker.engine.engine import Engine
from worker.engine.request import RenderRequest, resolve
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.registry import LocalDirectory


def main(folder: Path) -> dict[str, Any]:
    """The mean colour of each job's picture, and how many older predictions the sampler uses."""
    asked: Any = "lms_2"
    used = np.flatnonzero(plan(read_schedule(LMS_CONFIG, asked, 3)).b.any(axis=0))
    loader = ModelLoader(place("cpu"), cache=folder / "cache")
    model = loader.load("tiny", LocalDirectory(build_tiny_model(folder)))
    summing = {"addition_embed_type": "text", "addition_embed_type_num_heads": 4}
    other = loader.load("summing", LocalDirectory(build_tiny_model(folder / "summing", unet=summing)))
    losses = load_losses()
    declarations = losses.declarations
    engine = Engine(losses, max_rows=4)
    engine.start()
    jobs: dict[str, dict[str, Any]] = {
        "lms": {},
        "lms_2": {"sampler": "lms_2"},
        "green": {"losses": [{"name": "green", "arguments": {"target": 1.0}, "every": 1}]},
    }
    try:
        found: dict[str, Any] = {"history": int(used.max()), "family": other.family.name}
        for name, fields in jobs.items():
            request = JobRequest.parse({"prompt": "a cat", "seed": 1, "steps": 2, **fields})
            [spec] = request.specs(None, default_model="tiny", declarations=declarations)
            found[name] = _mean_colour(engine, RenderRequest(name, resolve(spec, model, losses), model))
        found["summing"] = _mean_colour(engine, RenderRequest("summing", resolve(spec, other, losses), other))
        return found
    finally:
        engine.stop()


def _mean_colour(engine: Engine, request: RenderRequest) -> list[float]:
    means: list[float] = engine.submit(request).result(60).pixels.mean(axis=(0, 1)).tolist()
    return means


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
