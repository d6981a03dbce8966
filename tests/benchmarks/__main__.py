"""`python -m tests.benchmarks`: measure, write what was found as JSON, and rewrite the tables in deploy/."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from tests.benchmarks import bucket, client_side, full_load, redis_commands, saturation, whole_farm
from tests.benchmarks.farms import local_farm
from tests.benchmarks.pages import rewrite

PARTS = ("render", "submit", "list", "commands", "bucket", "overhead", "full-load", "start", "saturation")
HERE = Path(__file__).parents[2]
RESULTS = HERE / "deploy" / "docs" / "performance"


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(PARTS))
@click.option("--seconds", default=280.0, show_default=True, help="Budget of the comparison with diffusers.")
@click.option("--repeats", default=3, show_default=True, help="Runs of every arm of it.")
@click.option("--jobs", default=10_000, show_default=True, help="Jobs of the one submission.")
@click.option("--held", default=100_000, show_default=True, help="Jobs in the ledger whose page is listed.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(parts: tuple[str, ...], seconds: float, repeats: int, jobs: int, held: int, out: Path) -> None:
    """Measure PARTS (by default all of them) on this machine, each with real servers and processes."""
    out.mkdir(parents=True, exist_ok=True)
    wanted = parts or PARTS
    if "render" in wanted:
        command = [sys.executable, "-m", "worker.bench", "--out", str(out), "--seconds", str(seconds)]
        subprocess.run([*command, "--repeats", str(repeats)], check=True)
    file = out / "farm.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for part in PARTS[1:]:
        if part in wanted:
            click.echo(f"measuring: {part}", err=True)
            found["load"] = f"{os.getloadavg()[0]:.1f}"
            found[part] = _measured(part, found, out, jobs=jobs, held=held)
            file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if out == RESULTS:
        rewrite(HERE / "deploy" / "docs", out)
        (out / "bench.md").unlink(missing_ok=True)  # its tables are in the pages now


def _measured(part: str, found: dict[str, Any], out: Path, *, jobs: int, held: int) -> Any:
    match part:
        case "start":
            return whole_farm.cold_start()
        case "saturation":
            return _saturation(found, json.loads((out / "bench.json").read_text(encoding="utf-8")))
        case "overhead":
            with local_farm(workers=1) as farm:
                return whole_farm.overhead(farm)
    with local_farm() as farm:
        match part:
            case "submit":
                return client_side.submission(farm, jobs=jobs)
            case "list":
                return client_side.listing(farm, jobs=held)
            case "full-load":
                return full_load.throughput(farm)
            case "commands":
                return redis_commands.counted(farm, full=held // 5)
            case _:
                return bucket.puts(farm)


def _saturation(found: dict[str, Any], bench: dict[str, Any]) -> Any:
    """From what the other parts found, and for a GPU from the arithmetic alone."""
    parts = found["commands"]["0"]
    us = {name: numbers["us"] + saturation.REQUEST_US * numbers["requests"] for name, numbers in parts.items()}
    lanes = found["bucket"]["lanes"]
    services = saturation.Services(
        claim=1e-6 * (us["claim"] + us["create"] + us["publish"]),
        report=1e-6 * us["report of a step"],
        finish=1e-6 * us["finish"],
        put=lanes / found["bucket"]["objects_per_second"],
        lanes=lanes,
    )
    tick = bench["costs"]["forwards"]["32"] + bench["costs"]["ticks"]["32"]
    kinds = [
        saturation.WorkerKind("this CPU, bundled model", 16, tick, bench["costs"]["decode"]),
        saturation.assumed_gpu(),
    ]
    buckets = {"the local bucket": services, "5,000 objects/s (assumed)": saturation.large_bucket(services)}
    return {
        "services": vars(services),
        "buckets": {name: saturation.table(kinds, each) for name, each in buckets.items()},
    }


if __name__ == "__main__":
    main()
