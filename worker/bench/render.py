"""The comparison: every arm over every workload, interleaved, again and again within a budget of time."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from farm.jobs.spec import SamplerName
from worker.bench import costing, workloads
from worker.bench.adapting import adapted, can_switch
from worker.bench.engines import Engines, padded
from worker.bench.idle import watched
from worker.bench.measure import (
    Render,
    Run,
    Spread,
    flops,
    largest_difference,
    measured,
    peak_flops,
    percentile,
)
from worker.bench.pipelines import Pipelines
from worker.bench.workloads import Job
from worker.engine.rows import CAREFUL_CPU_ROWS
from worker.models.compiled import compiled, numbers_of_rows
from worker.models.cuda_graphs import with_graphs
from worker.models.device import Placement
from worker.models.model import LoadedModel

_log = logging.getLogger(__name__)

ENGINE, ONLY_ALIKE, PADDED = "engine", "engine, equal guidance and sampler", "static, padded to the longest"
PIPELINE, MEMOISED = "pipeline, job by job", "pipeline, job by job, memoised"
COMPILED = "pipeline, compiled, memoised"
ALIKE, ALIKE_MEMOISED = "static, alike", "static, alike, memoised"
UNADAPTED, SWITCHING = "engine, without adapters", "pipeline, switching adapters job by job"

ALIKE_STEPS = 20
_BACKLOG_SHARE, _ALIKE_SHARE = 0.6, 0.2
_FEWEST, _MOST = 12, 64
_SHORTEST = 0.25
_ENOUGH_FOR_ALL = 900.0
"""Seconds above which every arm renders every backlog. Below, alike batches have only their own workload: in a backlog
without two jobs alike they are the pipeline job by job."""
ADAPTED_JOBS = 16
_ALONE = 6
"""Jobs that are rendered again alone, for comparison."""


@dataclass(frozen=True)
class Options:
    """How much is measured. `seconds` is the budget of time; the workloads are cut to it."""

    seconds: float
    repeats: int
    rows: int
    slots: int


class Comparison:
    """One model on one device, loaded twice: once for the farm, once for diffusers."""

    def __init__(self, model: LoadedModel, directory: Path, placement: Placement, options: Options) -> None:
        on_gpu = placement.device.type == "cuda"
        if on_gpu:
            model = with_graphs(replace(model, compiled=compiled(model, numbers_of_rows(options.rows))))
        self.model = model
        self._options = options
        self._placement = placement
        self._engines = Engines(model, options.rows, options.slots)
        self._pipelines = Pipelines(model.name, directory, placement)
        self._compiled = Pipelines(model.name, directory, placement, compiled="default") if on_gpu else None
        self._peak = peak_flops(placement.device, placement.dtype)
        text = model.conditioned(model.prompts.encode(""), cached=False)
        self._row_flops = flops(lambda: costing.forward(model, text, 1))
        self._decode_flops = flops(lambda: costing.decode(model, 1))

    def all(self) -> dict[str, Any]:
        """Every figure, as plain data."""
        began = time.monotonic()
        self._warm_up()
        costs = costing.measure(self.model, self._pipelines, self._options.rows)
        found: dict[str, Any] = {
            "peak_gflops": self._peak / 1e9,
            "row_gflop": self._row_flops / 1e9,
            "decode_gflop": self._decode_flops / 1e9,
            "costs": costing.described(costs),
            "not_run": [
                *([] if self._compiled else [f"{COMPILED}: no CUDA"]),
                *([] if can_switch() else [f"{SWITCHING}: diffusers needs peft for that"]),
            ],
            "tick": costing.overhead_of_a_tick(self.model, jobs=min(16, self._options.rows // 2)),
            "latency": costing.latencies(costs, rows=self._options.rows, slots=self._options.slots),
            "idle": self._idle(),
            "deterministic": self._deterministic(),
        }
        found["alike"] = self._alike()
        found["adapters"] = self._adapters()
        found["backlog"] = self._backlogs(costs.plain_forward(2) + costs.step)
        found["seconds"] = time.monotonic() - began
        return found

    def whole(self, jobs: int = 16) -> dict[str, Any]:
        """One unlike backlog of whole jobs by LMS: by the pipeline, and by the engine."""
        self._warm_up()
        return self._backlog(workloads.unlike(self.model, jobs, sampler="lms"), self._names(plain=True, rest=False))

    def _warm_up(self) -> None:
        """Run every kernel once, so that no arm pays for what happens only once in a process."""
        jobs = workloads.unlike(self.model, 6, sampler=None)
        few = [Job(job.id, job.spec.model_copy(update={"steps": 4, "start": _early(job)}), job.picture) for job in jobs]
        self._pipelines.job_by_job(few, time.monotonic, memoised=True)
        self._engines.mixed(few, time.monotonic)
        if self._compiled:
            self._compiled.job_by_job(few, time.monotonic, memoised=True)

    def _backlogs(self, step_seconds: float) -> dict[str, Any]:
        """LMS by every arm, Euler and all samplers mixed by fewer where time is short."""
        every = self._options.seconds > _ENOUGH_FOR_ALL
        plans: list[tuple[str, SamplerName | None, Sequence[str], float]] = [
            ("lms", "lms", self._names(plain=True, rest=True), 5.0 if every else 4.0),
            ("euler", "euler", self._names(plain=False, rest=every), 5.0 if every else 1.7),
            ("several samplers", None, self._names(plain=False, rest=every), 5.0 if every else 1.7),
        ]
        per_step = 1.3 * step_seconds * sum(weight for *_, weight in plans) * self._options.repeats
        steps = _BACKLOG_SHARE * self._options.seconds / per_step
        shorter = min(1.0, max(_SHORTEST, steps / (_FEWEST * workloads.MIDDLE)))
        count = max(_FEWEST, min(_MOST, int(steps / (shorter * workloads.MIDDLE))))
        _log.info("backlogs of %d jobs of %.0f %% of the steps", count, 100 * shorter)
        return {
            name: self._backlog(workloads.unlike(self.model, count, sampler=sampler, share=shorter), arms)
            for name, sampler, arms, _ in plans
        }

    def _names(self, *, plain: bool, rest: bool) -> list[str]:
        names = [PIPELINE] if plain else []
        names += [MEMOISED, *([COMPILED] if self._compiled else []), ENGINE]
        names += [PADDED, ONLY_ALIKE] if rest else []
        return names + ([ALIKE, ALIKE_MEMOISED] if rest and self._options.seconds > _ENOUGH_FOR_ALL else [])

    def _backlog(self, jobs: Sequence[Job], arms: Sequence[str]) -> dict[str, Any]:
        alone = self._engines.alone(jobs[:_ALONE], time.monotonic)
        runs = self._interleaved({arm: self._arm(arm, jobs) for arm in arms})
        reference = runs[MEMOISED][0].served
        # Losses, traces and LMS from a picture are not the same mathematics in diffusers.
        same = {job.id for job in jobs if not job.spec.guidance.losses and not job.spec.start.image}
        return {
            "jobs": len(jobs),
            "rows": workloads.rows(jobs),
            "steps": [min(job.spec.steps for job in jobs), max(job.spec.steps for job in jobs)],
            "arms": {
                arm: {
                    **self._figures(done, jobs),
                    "difference_to_alone": largest_difference(done[0].served, alone) if arm in _OURS else None,
                    "difference_to_diffusers": largest_difference(
                        [one for one in done[0].served if one.id in same], reference
                    ),
                }
                for arm, done in runs.items()
            },
            "ratios": _ratios(runs),
        }

    def _alike(self) -> dict[str, Any]:
        """Batches of 1 to 64 jobs alike, by one pipeline's call and by the engine."""
        sizes = [1, 4, 16, 64]
        budget = _ALIKE_SHARE * self._options.seconds
        found = {}
        for size in sizes:
            jobs = workloads.alike(self.model, size, steps=ALIKE_STEPS)
            began = time.monotonic()
            runs = self._interleaved({arm: self._arm(arm, jobs) for arm in (ALIKE_MEMOISED, ENGINE)})
            found[str(size)] = {
                "arms": {arm: self._figures(done, jobs) for arm, done in runs.items()},
                "ratios": _ratios(runs),
            }
            took = time.monotonic() - began
            budget -= took
            if 4 * took > budget:  # the next size would take four times as long
                break
        return found

    def _adapters(self) -> dict[str, Any]:
        """A backlog under as many adapters as there are jobs, and the same jobs without."""
        plain = workloads.alike(self.model, ADAPTED_JOBS, steps=ALIKE_STEPS, sampler="euler")
        jobs = adapted(self.model, plain)
        arms: dict[str, Render] = {
            ENGINE: partial(self._engines.mixed, jobs),
            UNADAPTED: partial(self._engines.mixed, plain),
        }
        self._engines.mixed(jobs, time.monotonic)  # forwards with adapters are recorded at the first
        with self._pipelines.switching(jobs) if can_switch() else nullcontext() as switching:
            runs = self._interleaved({**arms, **({SWITCHING: switching} if switching else {})})
        return {
            "jobs": len(jobs),
            "arms": {arm: self._figures(done, jobs) for arm, done in runs.items()},
            "ratios": _ratios(runs),
        }

    def _idle(self) -> float:
        """The share of a full engine's time in which the device runs nothing of the model."""
        jobs = workloads.alike(self.model, self._options.slots, steps=8, sampler="euler")
        with watched(self.model) as idle:
            self._engines.mixed(jobs, time.monotonic)
            return idle()

    def _deterministic(self) -> dict[str, Any]:
        """The throughput of deterministic mode as a share of the usual, by jobs at once."""
        rows = self._options.rows if self._compiled else min(CAREFUL_CPU_ROWS, self._options.rows)
        careful = Engines(self.model, rows, self._options.slots, deterministic=True)
        usual = Engines(self.model, self._options.rows, self._options.slots)
        found: dict[str, Any] = {"rows": rows, "shares": {}}
        for count in (1, 8):
            jobs = workloads.alike(self.model, count, steps=8, sampler="euler")
            runs = self._interleaved(
                {"usual": partial(usual.mixed, jobs), "deterministic": partial(careful.mixed, jobs)}
            )
            shares = [u.seconds / d.seconds for u, d in zip(runs["usual"], runs["deterministic"], strict=True)]
            found["shares"][str(count)] = vars(Spread.of(shares))
        return found

    def _arm(self, name: str, jobs: Sequence[Job]) -> Render:
        at_most = max(1, self._options.rows // 2)
        arms: dict[str, Render] = {
            PIPELINE: partial(self._pipelines.job_by_job, jobs, memoised=False),
            MEMOISED: partial(self._pipelines.job_by_job, jobs, memoised=True),
            ALIKE: partial(self._pipelines.alike_together, jobs, memoised=False, at_most=at_most),
            ALIKE_MEMOISED: partial(self._pipelines.alike_together, jobs, memoised=True, at_most=at_most),
            PADDED: partial(padded, self.model, jobs, batch=self._options.slots, rows=self._options.rows),
            ENGINE: partial(self._engines.mixed, jobs),
            ONLY_ALIKE: partial(self._engines.only_alike, jobs),
        }
        if self._compiled:
            arms[COMPILED] = partial(self._compiled.job_by_job, jobs, memoised=True)
        return arms[name]

    def _interleaved(self, arms: Mapping[str, Render]) -> dict[str, list[Run]]:
        """Each arm once a repeat, beginning with another one each time."""
        runs: dict[str, list[Run]] = {arm: [] for arm in arms}
        names = list(arms)
        for repeat in range(self._options.repeats):
            for arm in names[repeat % len(names) :] + names[: repeat % len(names)]:
                gc.collect()
                runs[arm].append(measured(arms[arm]))
                _log.info("%s: %.1f s", arm, runs[arm][-1].seconds)
        return runs

    def _figures(self, runs: Sequence[Run], jobs: Sequence[Job]) -> dict[str, Any]:
        rows = workloads.rows(jobs)
        work = rows * self._row_flops + len(jobs) * self._decode_flops
        first = [served.first_step for run in runs for served in run.served]
        ends = [served.done for run in runs for served in run.served]
        peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
        return {
            "images_per_second": vars(Spread.of([run.images_per_second for run in runs])),
            "rows_per_second": vars(Spread.of([rows / run.seconds for run in runs])),
            "utilisation": vars(Spread.of([work / run.seconds / self._peak for run in runs])),
            "cpu_seconds": vars(Spread.of([run.cpu_seconds for run in runs])),
            "first_preview": {"p50": percentile(first, 0.5), "p95": percentile(first, 0.95)},
            "finished": {"p50": percentile(ends, 0.5), "p95": percentile(ends, 0.95)},
            "peak_bytes": max(peaks, default=None),
        }


_OURS = (ENGINE, ONLY_ALIKE, PADDED)


def _ratios(runs: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """How many times as fast the engine was as each arm, by pairs of one repeat: by the clock, and in CPU time."""
    pairs = {arm: list(zip(others, runs[ENGINE], strict=True)) for arm, others in runs.items() if arm != ENGINE}
    return {
        arm: {
            "wall": vars(Spread.of([other.seconds / engine.seconds for other, engine in paired])),
            "cpu": vars(Spread.of([other.cpu_seconds / engine.cpu_seconds for other, engine in paired])),
        }
        for arm, paired in pairs.items()
    }


def _early(job: Job) -> Any:
    return job.spec.start.model_copy(update={"step": min(job.spec.start.step, 2)})
