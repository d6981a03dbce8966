"""What `--trace numbers` costs: its share of all CPU time of rendering, on the bundled model, where it is the most.

`python -m tests.benchmarks.traces`: jobs with a trace and the same without, side by side in one process. Prints JSON.
"""

from __future__ import annotations

import json
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from farm.jobs.request import JobRequest
from farm.jobs.spec import TraceLevel
from worker.diffusion.losses import load_losses
from worker.engine.engine import Engine
from worker.engine.reports import Reports
from worker.engine.request import Pixels, RenderRequest, SilentObserver, StepRecord, resolve
from worker.engine.request_state import RequestState
from worker.engine.rows import Step
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.model import LoadedModel
from worker.models.registry import BUILT_IN
from worker.results.trace import TraceWriter

STEPS, REPEATS = 20, 3


class Timed(Reports):
    """Reports that count the time of the engine's thread in which traces are made."""

    seconds = 0.0

    def traces(self, traced: Sequence[int], states: Sequence[RequestState], step: Step) -> None:
        began = time.thread_time()
        super().traces(traced, states, step)
        self.seconds += time.thread_time() - began


class Writing(SilentObserver):
    """Writes each step down, as the job's thread of a worker does; here it is counted, for it comes within."""

    def __init__(self, writer: TraceWriter) -> None:
        self._writer = writer

    def on_trace(self, record: StepRecord, frame: Pixels | None) -> None:
        self._writer.add(record, frame)


def share(model: LoadedModel, jobs: int, level: TraceLevel, folder: Path) -> float:
    """The share of CPU time that the traces of so many jobs at once take."""
    engine = Engine(losses := load_losses(), max_rows=32)
    reports = engine._stepper._reports = Timed(engine._stepper._reports._decoder)
    engine.start()
    request = JobRequest.parse({"prompt": "an otter", "count": jobs, "seed": 1, "steps": STEPS, "trace": level})
    specs = [resolve(spec, model, losses) for spec in request.specs(None, default_model="emoji")]
    folders = [folder / str(number) for number in range(jobs)]
    for own in folders:
        own.mkdir(parents=True)
    writers = [TraceWriter(own, level) for own in folders]
    began = _cpu_seconds()
    done = [
        engine.submit(RenderRequest(str(number), spec, model, observer=Writing(writer)))
        for number, (spec, writer) in enumerate(zip(specs, writers, strict=True))
    ]
    for future in done:
        future.result()
    taken = _cpu_seconds() - began
    engine.stop()
    for writer in writers:
        writer.close()
    return reports.seconds / taken


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = ModelLoader(place("cpu"), cache=folder).load("emoji", BUILT_IN["emoji"])
        share(model, 1, "numbers", folder / "warm-up")
        found = {}
        for jobs in (1, 8, 16):
            shares = []
            for repeat in range(REPEATS):
                here = folder / f"{jobs}-{repeat}"
                shares.append(share(model, jobs, "numbers", here) - share(model, jobs, "none", here / "none"))
            found[f"{jobs} jobs at once, percent"] = {
                "median": round(100 * statistics.median(shares), 2),
                "least": round(100 * min(shares), 2),
                "most": round(100 * max(shares), 2),
            }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
