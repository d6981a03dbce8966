"""Renders on an engine whose process may take little more memory than it has: run by a test, in a process of its own.

Prints one JSON object: how each job ended, the warnings of the large one, and what the engine logged.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import torch

from farm.jobs.request import JobRequest
from worker.diffusion.losses import load_losses
from worker.engine.engine import Engine
from worker.engine.request import Rendered, RenderRequest, SilentObserver, resolve
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.model import LoadedModel
from worker.models.registry import LocalDirectory

ROWS = 64
SPARE = 94 * 2**20
"""What is asked for needs less than four fifths of this, or more than a quarter more: kernels differ by machine."""


def main(directory: Path) -> None:
    torch.set_num_threads(1)
    model = ModelLoader(place("cpu"), cache=directory / "cache").load("tiny", LocalDirectory(directory))
    engine = Engine(load_losses(), max_rows=ROWS)
    # a busy machine would take fewer rows for their time, and so never find out that they do not fit
    engine._turns.rows_in = lambda *_: ROWS  # type: ignore[method-assign]
    engine._turns.rows_worth = lambda *_: ROWS  # type: ignore[method-assign]
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("worker.engine").addHandler(handler)
    engine.start()
    engine.submit(a_job("warm-up", model, side=256)).result()
    limit = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize() + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    futures = at_once(engine, model, [a_job(f"small {n}", model, side=256) for n in range(20)])
    wait(futures.values())
    futures["large"] = engine.submit(a_job("large", model, side=576, width=704, steps=1, guidance=1))
    futures["huge"] = engine.submit(a_job("huge", model, side=1280, width=1792, steps=1, guidance=1))
    futures |= {f"beside {n}": engine.submit(a_job(f"beside {n}", model, side=256)) for n in range(4)}
    ends = {}
    for name, future in futures.items():
        error = future.exception()
        ends[name] = getattr(error, "kind", repr(error)) if error else "done"
    warnings = futures["large"].result().warnings if ends["large"] == "done" else ()
    engine.stop()
    print(json.dumps({"ends": ends, "warnings": warnings, "logged": logged}))


def at_once(engine: Engine, model: LoadedModel, requests: list[RenderRequest]) -> dict[str, Future[Rendered]]:
    """Submit requests between two steps of another job, so that the engine finds all of them there, however busy the
    machine is: one by one they might come so slowly that each batch is small enough to fit."""
    submitted: SimpleQueue[dict[str, Future[Rendered]]] = SimpleQueue()

    class Submitting(SilentObserver):
        def on_step(self, done: int) -> None:
            if done == 1:
                submitted.put({request.id: engine.submit(request) for request in requests})

    engine.submit(replace(a_job("before them", model, side=64), observer=Submitting()))
    return submitted.get(timeout=240)


def a_job(name: str, model: LoadedModel, *, side: int, **fields: float) -> RenderRequest:
    request = JobRequest.parse({"prompt": "a cat", "seed": 1, "steps": 2, "width": side, "height": side, **fields})
    return RenderRequest(
        id=name, spec=resolve(request.specs(None, default_model="tiny")[0], model, load_losses()), model=model
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
