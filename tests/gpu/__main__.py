"""`python -m tests.gpu --out DIR`: everything that only a GPU can show, in some minutes and without a network.

Each part runs in a process of its own, in the order in which its answers matter, and what it finds is printed and
written as it is found: the run may be cut short at any time. Without a GPU the same is rehearsed on the CPU.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import click

from tests.gpu.facts import Fact, Facts
from tests.gpu.page import figures_of, page

SHARES = {"works": 0.15, "right": 0.1, "same": 0.2, "fast": 0.4, "whole": 0.15}
"""The parts, in order, and what each may have of the time. What one leaves, the next ones have."""
_GRACE = 10.0
_PACKAGES = ("torch", "diffusers", "transformers", "numpy", "triton")


@click.command(context_settings={"show_default": True})
@click.option("--minutes", type=click.FloatRange(0.5), default=8.0, help="What may be spent.")
@click.option("--only", "only", multiple=True, type=click.Choice(tuple(SHARES)), help="These parts alone.")
@click.option("--device", help="cpu or cuda:N.  [default: the GPU if there is one, else a rehearsal on the CPU]")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="For gpu.json, .md and .log."
)
@click.option("--part", type=click.Choice(tuple(SHARES)), hidden=True)
@click.option("--seconds", type=float, hidden=True)
def main(
    minutes: float, only: Sequence[str], device: str | None, out: Path, part: str | None, seconds: float | None
) -> None:
    """Prove the farm on this machine's GPU. Ends with 1 if something that must hold does not."""
    if part and seconds:
        return _run_part(part, seconds, device, out)
    out.mkdir(parents=True, exist_ok=True)
    record = _Record(out, device)
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="gpu-") as scratch, (out / "gpu.log").open("w", encoding="utf-8") as log:
        waiting = [name for name in SHARES if not only or name in only]
        while waiting:
            share = SHARES[waiting[0]] / sum(SHARES[name] for name in waiting)
            record.part(name := waiting.pop(0))
            for fact in _facts(name, share * (end - time.monotonic()), device, Path(scratch), log):
                record.add(fact)
    record.close()
    raise SystemExit(1 if record.failed else 0)


def _facts(part: str, seconds: float, device: str | None, scratch: Path, log: IO[str]) -> Iterator[Fact]:
    """What a part finds, in a process of its own that is killed if it takes much longer."""
    command = [sys.executable, "-m", "tests.gpu", "--part", part, "--seconds", str(seconds), "--out", str(scratch)]
    command += ["--device", device] if device else []
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
    )
    killer = threading.Timer(max(0.0, seconds) + _GRACE, process.kill)
    killer.start()
    try:
        assert process.stdout
        for line in process.stdout:
            log.write(line)
            log.flush()
            if fact := Fact.read(line):
                yield fact
        code = process.wait()
    finally:
        killer.cancel()
        process.kill()
    if code:
        yield Fact(part, False, note=f"the part ended with {code} and may not be whole: see gpu.log")


class _Record:
    """What was found so far, as a table on standard output and in files that are whole at any time."""

    def __init__(self, out: Path, device: str | None) -> None:
        self._out = out
        self._began = time.monotonic()
        self._found: dict[str, Any] = {"machine": _machine(device), "seconds": 0.0, "parts": {}}
        self._facts: list[dict[str, Any]] = []
        self.failed = 0

    def part(self, name: str) -> None:
        self._facts = self._found["parts"].setdefault(name, [])
        click.echo(f"\n{name}")

    def add(self, fact: Fact) -> None:
        self._facts.append(asdict(fact))
        self.failed += fact.ok is False
        mark = {True: "ok  ", False: "FAIL", None: "    "}[fact.ok]
        click.echo(f"  {mark} {fact.name}  {figures_of(asdict(fact))}")
        self._write()

    def close(self) -> None:
        self._write()
        click.echo(f"\n{self._found['seconds']:.0f} s, {self.failed} failed: {self._out / 'gpu.json'}")

    def _write(self) -> None:
        self._found["seconds"] = time.monotonic() - self._began
        text = json.dumps(self._found, indent=1) + "\n"
        partial = self._out / "gpu.json.part"
        partial.write_text(text, encoding="utf-8")
        partial.replace(self._out / "gpu.json")
        (self._out / "gpu.md").write_text(page(self._found), encoding="utf-8")


def _run_part(part: str, seconds: float, device: str | None, scratch: Path) -> None:
    """One part, in this process."""
    from worker.host.runtime import settle

    settle()
    import torch

    from worker.models.device import place

    chosen = place(device).device  # before what takes long to import
    from tests.gpu.subjects import Subjects

    facts = Facts(seconds)
    try:
        tried = import_module(f"tests.gpu.{part}")
    except ImportError as error:  # a machine may have the packages of some parts alone
        return facts.not_run(part, str(error))
    tried.run(facts, Subjects(chosen if chosen.type == "cuda" else torch.device("cpu"), scratch))


def _machine(device: str | None) -> dict[str, Any]:
    """What ran it. Asked for in a process of its own, so that this one never holds the device."""
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    asked = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, encoding="utf-8", check=True)
    card = asked.stdout.strip()
    return {
        "device": card if card and not (device or "").startswith("cpu") else f"{platform.machine()} CPU (a rehearsal)",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "date": datetime.now(UTC).date().isoformat(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
