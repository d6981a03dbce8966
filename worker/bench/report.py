"""The figures as tables for people: the ratio first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]


def tables(found: Figures) -> str:
    """All tables, in Markdown."""
    return "\n\n".join(
        [
            _machine(found),
            *(backlog(name, figures) for name, figures in found["backlog"].items()),
            _alike(found["alike"]),
            _adapters(found["adapters"]),
            _latency(found["latency"]),
            _costs(found),
        ]
    )


def _machine(found: Figures) -> str:
    machine = found["machine"]
    lines = [
        f"{machine['device']}, {machine['dtype']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"diffusers {machine['diffusers']}; model `{machine['model']}`; {found['repeats']} repeats, "
        f"{found['seconds']:.0f} s in all; {machine['date']}. Load of the machine: {machine['load']}.",
        *(f"Not run: {reason}." for reason in found["not_run"]),
    ]
    return "\n".join(lines)


def backlog(name: str, figures: Figures) -> str:
    """One backlog's table."""
    heading = (
        f"**Unlike backlog, {name}**: {figures['jobs']} jobs of "
        f"{figures['steps'][0]} to {figures['steps'][1]} steps, {figures['rows']} rows."
    )
    rows = []
    for arm, numbers in figures["arms"].items():
        ratio = figures["ratios"].get(arm)
        rows.append(
            (
                arm,
                spread(ratio["wall"]) + "×" if ratio else "1",
                spread(ratio["cpu"]) + "×" if ratio else "1",
                spread(numbers["images_per_second"], 3),
                spread(numbers["rows_per_second"], 1),
                spread(numbers["utilisation"]),
                f"{numbers['first_preview']['p50']:.1f}",
                f"{numbers['finished']['p50']:.1f} / {numbers['finished']['p95']:.1f}",
                _mebibytes(numbers["peak_bytes"]),
                _levels(numbers["difference_to_alone"]),
                _levels(numbers["difference_to_diffusers"]),
            )
        )
    head = (
        "arm",
        "engine is faster by",
        "in CPU time by",
        "images/s",
        "rows/s",
        "utilisation",
        "first step, s",
        "done p50/p95, s",
        "peak, MiB",
        "to the job alone",
        "to diffusers",
    )
    return heading + "\n\n" + table(head, rows)


def _alike(figures: Figures) -> str:
    rows = [
        (
            size,
            *(spread(batch["ratios"][arm]["wall"]) for arm in batch["ratios"]),
            *(spread(batch["ratios"][arm]["cpu"]) for arm in batch["ratios"]),
            *(spread(numbers["images_per_second"], 3) for numbers in batch["arms"].values()),
        )
        for size, batch in figures.items()
    ]
    head = ("jobs alike", "engine over one call", "in CPU time", "one call, images/s", "engine, images/s")
    return "**Alike jobs**, 20 steps of LMS, memoised in diffusers.\n\n" + table(head, rows)


def _adapters(figures: Figures) -> str:
    rows = [
        (
            arm,
            *(spread(figures["ratios"][arm][by]) + "×" if arm in figures["ratios"] else "1" for by in ("wall", "cpu")),
            spread(numbers["images_per_second"], 3),
            _mebibytes(numbers["peak_bytes"]),
        )
        for arm, numbers in figures["arms"].items()
    ]
    head = ("arm", "engine is faster by", "in CPU time by", "images/s", "peak, MiB")
    heading = f"**Adapters**: {figures['jobs']} jobs, each under a LoRA of its own of rank 16, 20 steps of Euler."
    return heading + "\n\n" + table(head, rows)


def _latency(figures: Figures) -> str:
    rows = [
        (
            load if number == 0 else "",
            arm,
            *(f"{numbers[name]:.2f}" for name in ("p50", "p95", "p99", "first_preview_p50", "first_preview_p95")),
            f"{at['p95_ratios'][arm]:.2f}" if arm in at["p95_ratios"] else "1",
        )
        for load, at in figures["loads"].items()
        for number, (arm, numbers) in enumerate(at["arms"].items())
    ]
    head = (
        "load",
        "arm",
        "p50, s",
        "p95, s",
        "p99, s",
        "first step p50, s",
        "first step p95, s",
        "the engine's p95 over this one's",
    )
    return (
        f"**Poisson arrivals** at shares of {figures['capacity']:.2f} jobs/s, what a pipeline with memoised LMS does; "
        f"{figures['jobs']:,} jobs, replayed with the times measured here.\n\n" + table(head, rows)
    )


def _costs(found: Figures) -> str:
    costs, tick = found["costs"], found["tick"]
    forwards, plain = (
        ", ".join(f"{rows}: {1e3 * s:.0f} ms" for rows, s in costs[name].items())
        for name in ("forwards", "plain_forwards")
    )
    deterministic = ", ".join(
        f"{count} jobs at once: {spread(share)} of the usual"
        for count, share in found["deterministic"]["shares"].items()
    )
    return "\n".join(
        [
            f"A forward by rows: {forwards}; a pipeline's: {plain}.",
            f"One row is {found['row_gflop']:.3f} GFLOP, a decode {found['decode_gflop']:.2f}; the measured peak is "
            f"{found['peak_gflops']:.0f} GFLOP/s.",
            f"A tick's overhead with {tick['jobs']} jobs: {1e3 * tick['seconds']:.2f} ms, {tick['share']:.1%} of it; "
            f"with one: {1e3 * costs['ticks']['2']:.2f} ms. "
            f"With as many jobs as there are slots, nothing of the model runs in {found['idle']:.1%} of the time. "
            f"Boarding a job: {1e3 * costs['board']:.1f} ms. A decode: {1e3 * costs['decode']:.0f} ms. "
            f"A pipeline's call: {1e3 * costs['call']:.0f} ms, and {1e3 * costs['step']:.1f} ms a step beside it.",
            f"Deterministic mode's throughput, {found['deterministic']['rows']} rows: {deterministic}.",
        ]
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def spread(numbers: Mapping[str, float], digits: int = 2) -> str:
    """The median, and the least and the most: `2.71 (2.60 to 2.80)`."""
    return f"{numbers['median']:.{digits}f} ({numbers['least']:.{digits}f} to {numbers['most']:.{digits}f})"


def _mebibytes(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:.0f}"


def _levels(difference: int | None) -> str:
    return "" if difference is None or difference < 0 else str(difference)
