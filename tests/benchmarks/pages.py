"""Puts what was measured into the pages of deploy/docs/, between marks that say so."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from worker.bench.report import table, tables


def rewrite(pages: Path, results: Path) -> None:
    """Rewrite the measured parts of performance.md and scaling.md from the JSON files in `results`."""
    farm: dict[str, Any] = _read(results / "farm.json")
    bench: dict[str, Any] = _read(results / "bench.json")
    if bench:
        pictures = "![Images a second](performance/throughput.svg)\n\n![Latency by load](performance/latency.svg)"
        _put(pages / "performance.md", "render", f"{tables(bench)}\n\n{pictures}")
    if farm:
        _put(pages / "performance.md", "farm", "\n\n".join(_farm(farm)))
    if "saturation" in farm:
        _put(pages / "scaling.md", "saturation", _saturation(farm["saturation"]))


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


def _put(page: Path, name: str, text: str) -> None:
    begin, end = f"<!-- measured: {name} -->", f"<!-- end: {name} -->"
    content = page.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(content):
        raise SystemExit(f"{page} has no {begin}")
    page.write_text(pattern.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", content), encoding="utf-8")


def _farm(found: dict[str, Any]) -> list[str]:
    parts = [f"The machine's load as this was begun: {found['load']} on {os.cpu_count()} cores."]
    if "submit" in found:
        one = found["submit"]
        parts.append(
            f"`farm submit batch` of one file of {one['jobs']:,} jobs: {one['seconds']:.1f} s by the clock, "
            f"{one['cpu_seconds']:.1f} s on the CPU, the start of the command included."
        )
    if "list" in found:
        pages = {name: took for name, took in found["list"].items() if isinstance(took, dict)}
        rows = [(name, f"{took['seconds']:.2f}", f"{took['cpu_seconds']:.2f}") for name, took in pages.items()]
        parts.append(f"`farm list` while the ledger holds {found['list']['jobs']:,} jobs, in seconds of the command:")
        parts.append(table(("page of 50", "clock", "CPU"), rows))
    if "commands" in found:
        rows = [
            (name, held, *(f"{numbers[what]:.2f}" for what in ("requests", "commands")), f"{numbers['us']:.0f}")
            for held, parts_of_a_job in found["commands"].items()
            for name, numbers in parts_of_a_job.items()
        ]
        parts.append("What a job costs Redis, by how many jobs the ledger holds already:")
        parts.append(table(("a job's", "held", "requests", "commands in scripts", "µs"), sorted(rows)))
    if "bucket" in found:
        one = found["bucket"]
        parts.append(
            f"The local farm's bucket takes {one['objects_per_second']:.0f} objects of {one['bytes'] // 1000} kB "
            f"a second from {one['lanes']} threads of one process."
        )
    if "overhead" in found:
        parts.append(_overhead(found["overhead"]))
    if "full-load" in found:
        parts.append(_throughput(found["full-load"]))
    if "start" in found:
        rows = [(name, f"{took['seconds']:.2f}", f"{took['cpu_seconds']:.2f}") for name, took in found["start"].items()]
        parts.append("A worker's start, in seconds:")
        parts.append(table(("part", "clock", "CPU"), rows))
    return parts


def _overhead(one: dict[str, Any]) -> str:
    ms = {
        name: f"{1e3 * one[name]:.0f} ms" for name in ("whole", "rendering", "until it is claimed", "added by the farm")
    }
    return (
        f"One job at a time on the local farm: {ms['whole']} from submission to the record, of which {ms['rendering']} "
        f"are rendering; {ms['until it is claimed']} pass until it is claimed; {ms['added by the farm']} in all are "
        f"the farm's. {one['jobs together']} jobs at once: {one['images a second together']:.2f} images/s."
    )


def _throughput(one: dict[str, Any]) -> str:
    rates = {name: f"{spread['median']:.2f}" for name, spread in one["images a second"].items()}
    return (
        f"Full workers, one thread each, {one['jobs']} jobs a worker: the engine alone {rates['engine alone']} "
        f"images/s, one worker {rates['one worker']}, two workers {rates['two workers']}. One worker has "
        f"{_spread(one['one worker over engine'])} of the engine's throughput, two have "
        f"{_spread(one['two workers over one'])} times one's. While sixteen of its jobs are looked at, a worker has "
        f"{_spread(one['looked at over not'])} of what it has otherwise."
    )


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"


def _saturation(found: dict[str, Any]) -> str:
    rows = [
        (
            bucket if number == 0 else "",
            kind if number == 0 else "",
            count,
            f"{at['images_per_second']:.1f}",
            f"{at['share_of_ideal']:.0%}",
            f"{at['redis_busy']:.1%}",
            f"{at['bucket_busy']:.1%}",
        )
        for bucket, kinds in found["buckets"].items()
        for kind, counts in kinds.items()
        for number, (count, at) in enumerate(counts.items())
    ]
    head = ("bucket", "worker", "how many", "images/s", "of the ideal", "Redis busy", "bucket busy")
    services = {name: number for name, number in found["services"].items() if name != "lanes"}
    costs = ", ".join(f"{name} {1e3 * seconds:.2f} ms" for name, seconds in services.items())
    return f"Measured services: {costs}, with {found['services']['lanes']} lanes of the bucket.\n\n" + table(head, rows)
