"""It is fast: forwards against the card's own peak, an unlike backlog against diffusers' pipelines, both compiled."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn
from torch.profiler import ProfilerActivity, profile

from tests.gpu.facts import Facts
from tests.gpu.subjects import Subjects, requests
from tests.gpu.works import engine
from worker.bench import costing, workloads
from worker.bench.adapting import adapted, can_switch
from worker.bench.engines import Engines
from worker.bench.idle import watched
from worker.bench.measure import flops, measured, peak_flops, synchronize, times
from worker.bench.pipelines import Pipelines
from worker.bench.workloads import Job
from worker.engine.engine import Engine
from worker.models.compiled import compiled
from worker.models.cuda_graphs import with_graphs
from worker.models.fused import ChannelsLastTransformer, FusedGEGLU, FusedGroupNorm, PointwiseConv2d
from worker.models.model import LoadedModel

_LONGEST = 300.0
_ADAPTED = 4
_FUSED: Sequence[tuple[type[Any], type[Any], str]] = (
    (FusedGroupNorm, nn.GroupNorm, "forward"),
    (FusedGEGLU, GEGLU, "forward"),
    (PointwiseConv2d, nn.Conv2d, "forward"),
    (ChannelsLastTransformer, Transformer2DModel, "_get_output_for_continuous_inputs"),
)
_LONGEST_NAME, _MOST = 100, 16
"""Of a kernel's name, and of kernels, what is told."""
ROWS = (2, 4, 8, 16, 32, 64)
_AGAINST_EAGER, _AGAINST_COMPILED = 3.0, 1.8
_BESIDE_GIANTS = 3.0
_SHARE_OF_PEAK, _OVERHEAD = 0.5, 0.05
_LONE, _SPREAD = 1.0, 1.1
"""A lone job is no slower than the compiled pipeline's, but for a tenth, by which two runs of the same may differ."""


def run(facts: Facts, subjects: Subjects) -> None:
    if subjects.is_rehearsal:
        torch.compiler.set_stance("force_eager")  # compiling takes a CPU minutes, and other tests do
    bench = _Bench(facts, subjects)
    launched = replace(bench.model, graphed=None)
    facts.attempt("forwards", lambda: bench.forwards(launched, "launched", ROWS if bench.on_gpu else ROWS[:3]))
    facts.attempt("kernels", lambda: bench.kernels(launched))
    if bench.on_gpu:
        facts.attempt("graphs", lambda: bench.forwards(bench.model, "replayed", ROWS))
        facts.attempt("fused layers", lambda: bench.fused_layers(launched))
    facts.attempt("a tick's overhead", bench.overhead)
    facts.attempt("unlike backlog, eager", bench.backlog, seconds=10)
    facts.attempt("a lone job", bench.lone_job)
    facts.attempt("beside giants", bench.beside_giants, seconds=10)
    facts.attempt("adapters", bench.adapters, seconds=30 if bench.on_gpu else 0)
    facts.attempt("compiling the engine", bench.compile_engine, seconds=60 if bench.on_gpu else 0)
    facts.attempt("compiling the pipeline", bench.compile_pipeline, seconds=60 if bench.on_gpu else 0)
    facts.attempt("unlike backlog, compiled", bench.compiled_backlog, seconds=10)
    facts.attempt("a lone job, compiled", bench.compiled_lone_job)
    facts.attempt("forwards, compiled", bench.compiled_forwards)


class _Bench:
    """The farm's engine and diffusers' pipelines over one model, each with weights of its own."""

    def __init__(self, facts: Facts, subjects: Subjects) -> None:
        self._facts = facts
        self._subjects = subjects
        self.on_gpu = not subjects.is_rehearsal
        placement = subjects.placement(subjects.dtype)
        self.model = subjects.load("shaped", placement)
        self._make_pipelines = partial(Pipelines, "shaped", subjects.directory("shaped"), placement)
        self._pipelines = self._make_pipelines()
        self._peak = peak_flops(placement.device, placement.dtype)
        text = self.model.conditioned(self.model.prompts.encode(""), cached=False)
        self._row_flops = flops(lambda: costing.forward(self.model, text, 1))
        self._jobs = subjects.unlike(self.model, 18 if self.on_gpu else 3)
        self._lone = workloads.alike(self.model, 1, steps=2 * subjects.steps)
        self._compiled: LoadedModel | None = None
        self._compiled_pipelines: Pipelines | None = None
        facts.figure("the card's peak", teraflops=self._peak / 1e12, row_gigaflop=self._row_flops / 1e9)

    def forwards(self, model: LoadedModel, how: str, numbers: Sequence[int]) -> None:
        """Milliseconds by rows, and the share of the peak that a full batch reaches."""
        text = model.conditioned(model.prompts.encode(""))
        shares = {}
        for rows in numbers:
            seconds = statistics.median(times(lambda rows=rows: costing.forward(model, text, rows)))  # type: ignore[misc]
            shares[rows] = rows * self._row_flops / seconds / self._peak
            self._facts.figure(
                f"{how}: forward of {rows} rows",
                ms=1e3 * seconds,
                rows_per_second=rows / seconds,
                share_of_peak=shares[rows],
            )
        self._asked(f"{how}: a full batch's share of the peak", max(shares.values()), at_least=_SHARE_OF_PEAK)

    def kernels(self, model: LoadedModel) -> None:
        """What a full batch's time goes to."""
        text = model.conditioned(model.prompts.encode(""))
        kind = ProfilerActivity.CUDA if self.on_gpu else ProfilerActivity.CPU
        with profile(activities=[kind]) as profiled:
            costing.forward(model, text, self._subjects.rows)
            synchronize()
        took = Counter[str]()
        for one in profiled.key_averages():
            took[one.key[:_LONGEST_NAME]] += one.self_device_time_total if self.on_gpu else one.self_cpu_time_total
        shares = {name: f"{100 * microseconds / took.total():.1f} %" for name, microseconds in took.most_common(_MOST)}
        self._facts.figure("kernels of a full batch", **shares)

    def fused_layers(self, model: LoadedModel) -> None:
        """A full batch with the farm's own layers, and with PyTorch's or diffusers' instead of one kind of them."""
        text = model.conditioned(model.prompts.encode(""))

        def seconds() -> float:
            return statistics.median(times(lambda: costing.forward(model, text, self._subjects.rows), repeats=2))

        for fused, theirs, method in _FUSED:
            ratios = []
            for _ in range(2):
                own = seconds()
                with mock.patch.object(fused, method, getattr(theirs, method)):
                    ratios.append(seconds() / own)
            self._facts.figure(
                f"{fused.__name__}: times as fast as with {theirs.__name__}",
                value=statistics.median(ratios),
                spread=[min(ratios), max(ratios)],
            )

    def adapters(self) -> None:
        """Jobs each under an adapter of its own, beside the same without, and beside diffusers switching adapters."""
        plain = workloads.alike(self.model, _ADAPTED, steps=self._subjects.steps, sampler="euler")
        jobs = adapted(self.model, plain)
        engines = Engines(self.model, self._subjects.rows, self._subjects.rows // 2)
        arms: dict[str, Callable[..., Any]] = {
            "with": partial(engines.mixed, jobs),
            "without": partial(engines.mixed, plain),
        }
        for arm in arms.values():
            arm(time.monotonic)
        with self._pipelines.switching(jobs) if can_switch() else nullcontext() as switching:
            arms |= {"switching": switching} if switching else {}
            seconds = {name: [measured(arm).seconds for _ in range(2)] for name, arm in arms.items()}
        best = {name: min(some) for name, some in seconds.items()}
        self._facts.figure("under adapters: times what it takes without", value=best["with"] / best["without"])
        if switching:
            self._facts.figure(
                "under adapters: times as fast as the pipeline that switches them",
                value=best["switching"] / best["with"],
                seconds=seconds,
            )

    def overhead(self) -> None:
        """What a tick takes beside the model's kernels, and how long the device has nothing of the model to do."""
        slots = self._subjects.rows // 2
        tick = costing.overhead_of_a_tick(self.model, jobs=slots)
        self._asked("a tick's overhead", tick["share"], at_most=_OVERHEAD, ms=1e3 * tick["seconds"])
        jobs = workloads.alike(self.model, slots, steps=self._subjects.steps, sampler="euler")
        with watched(self.model) as idle:
            Engines(self.model, self._subjects.rows, slots).mixed(jobs, time.monotonic)
            self._facts.figure("share of the time in which nothing of the model runs", share=idle())

    def backlog(self) -> None:
        """Both as they are."""
        self._compare("unlike backlog", self._pipelines, self.model, self._jobs, at_least=_AGAINST_EAGER, repeats=2)

    def beside_giants(self) -> None:
        """How much longer short jobs take while the device has the largest pictures to render too."""
        side, counts = (2048, (1, 16)) if self.on_gpu else (256, (1, 2))
        fields = {"prompt": "a cat", "seed": 1, "steps": 1000, "width": side, "height": side}
        short = workloads.alike(self.model, 8, steps=4)
        for count in counts:
            giants = [workloads.job(self.model, f"giant {number}", fields) for number in range(count)]
            with engine(self._subjects.rows) as one:
                _seconds(one, self.model, short)
                alone = _seconds(one, self.model, short)
                for request in requests(self.model, giants):
                    one.submit(request)
                beside = _seconds(one, self.model, short)
                one.cancel_all()
            name = f"eight jobs of 4 steps beside {count} of {side} pixels a side: times what they take alone"
            self._asked(name, beside / alone, at_most=_BESIDE_GIANTS, seconds=[alone, beside])

    def compile_engine(self) -> None:
        began = time.monotonic()
        unet = compiled(self.model, (2, self._subjects.rows))
        if unet is None:
            return self._facts.not_run("the engine, compiled", "torch.compile does not work here: see the log")
        self._compiled = with_graphs(replace(self.model, compiled=unet))
        self._facts.figure("compiling the engine", seconds=time.monotonic() - began)

    def compile_pipeline(self) -> None:
        began = time.monotonic()
        pipelines = self._make_pipelines(compiled="reduce-overhead" if self.on_gpu else "default")
        pipelines.job_by_job(workloads.alike(self.model, 1, steps=2), time.monotonic, memoised=True)
        self._compiled_pipelines = pipelines
        self._facts.figure("compiling the pipeline", seconds=time.monotonic() - began)

    def compiled_backlog(self) -> None:
        self._compare_compiled("unlike backlog, compiled", self._jobs, at_least=_AGAINST_COMPILED)

    def lone_job(self) -> None:
        self._compare("a lone job", self._pipelines, self.model, self._lone, at_least=_LONE / _SPREAD)

    def compiled_lone_job(self) -> None:
        self._compare_compiled("a lone job, compiled", self._lone, at_least=_LONE / _SPREAD)

    def compiled_forwards(self) -> None:
        if self._compiled:
            self.forwards(self._compiled, "compiled", (2, self._subjects.rows))

    def _compare_compiled(self, name: str, jobs: Sequence[Job], *, at_least: float) -> None:
        if self._compiled and self._compiled_pipelines:
            self._compare(name, self._compiled_pipelines, self._compiled, jobs, at_least=at_least)
        else:
            self._facts.not_run(name, "not both of them are compiled")

    def _compare(
        self,
        name: str,
        pipelines: Pipelines,
        model: LoadedModel,
        jobs: Sequence[Job],
        *,
        at_least: float,
        repeats: int = 3,
    ) -> None:
        """Diffusers' pipeline job by job and the engine, in turn: how many times as fast the engine is."""
        engines = Engines(model, self._subjects.rows, self._subjects.rows // 2)
        arms: list[Callable[..., Any]] = [partial(pipelines.job_by_job, memoised=True), engines.mixed]
        arms[0](jobs[:1], time.monotonic)  # what happens only once is not measured
        arms[1](jobs, time.monotonic)  # the first forward of each number of rows
        runs = [[measured(partial(arm, jobs)).seconds for arm in arms] for _ in range(repeats if self.on_gpu else 1)]
        ratios = [pipeline / engine for pipeline, engine in runs]
        self._asked(
            f"{name}: times as fast as the pipeline",
            statistics.median(ratios),
            at_least=at_least,
            spread=[min(ratios), max(ratios)],
            images_per_second=[len(jobs) / statistics.median(seconds) for seconds in zip(*runs, strict=True)],
            steps_per_second=sum(job.spec.steps_to_do for job in jobs) / statistics.median(run[1] for run in runs),
            seconds=runs,
        )

    def _asked(
        self, name: str, value: float, *, at_least: float = 0.0, at_most: float = float("inf"), **more: object
    ) -> None:
        """A bound that is asked of a GPU; on a CPU the figure means nothing and is only shown."""
        bounds = {"at_least": at_least} if at_least else {"at_most": at_most}
        if self.on_gpu:
            self._facts.check(name, at_least <= value <= at_most, value=value, **bounds, **more)
        else:
            self._facts.figure(name, value=value, **more)


def _seconds(one: Engine, model: LoadedModel, jobs: Sequence[Job]) -> float:
    """How long an engine takes for jobs that come at once."""
    began = time.monotonic()
    for future in [one.submit(request) for request in requests(model, jobs)]:
        future.result(_LONGEST)
    return time.monotonic() - began
