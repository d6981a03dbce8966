"""`farm worker`: what it runs, and that signals and exit codes pass through it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from farm.cli.commands import worker
from farm.cli.main import farm

ROOT = Path(__file__).parents[3]


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that this process would have become."""
    lines: list[list[str]] = []
    monkeypatch.setattr(worker, "find_spec", lambda _: object())
    monkeypatch.setattr(worker, "_visible_gpus", lambda: 1)
    monkeypatch.setattr("os.execv", lambda _, line: lines.append(line))
    return lines


def test_one_device_becomes_the_worker_itself(executed: list[list[str]]) -> None:
    CliRunner().invoke(farm, ["worker"])
    assert executed == [[sys.executable, "-P", "-m", "worker"]]


def test_options_are_passed_on(executed: list[list[str]]) -> None:
    given = ["--model", "a=b", "--model", "sd14", "--embedding", "a=b.safetensors", "--embedding", "c=d"]
    given += ["--embeddings", "folder", "--slots", "4", "--rows", "8", "--grace", "1.5"]
    given += ["--checkpoint-seconds", "0.0", "--model-cache-gb", "2.5"]
    given += ["--max-side", "512", "--max-steps", "50", "--max-seconds", "9.0"]
    given += ["--deterministic", "--compile", "--device", "cpu", "--name", "me"]
    CliRunner().invoke(farm, ["worker", *given])
    assert executed == [[sys.executable, "-P", "-m", "worker", *given]]


def test_without_torch_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "find_spec", lambda name: None if name == "torch" else object())
    result = CliRunner().invoke(farm, ["worker"])
    assert result.exit_code == 1
    assert result.stderr == (
        "farm: this installation cannot render: torch missing\n"
        "  in a clone of the farm: pip install -c constraints.txt '.[worker]'\n"
    )


def test_gpus_are_counted_away_from_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A torch.py of theirs is not torch."""
    (tmp_path / "shadow.py").touch()
    monkeypatch.chdir(tmp_path)
    asked = "from importlib.util import find_spec; print(1 if find_spec('shadow') else 2)"
    monkeypatch.setattr(worker, "_COUNT_GPUS", asked)
    assert worker._visible_gpus() == 2


@contextmanager
def start_on_gpus(script: str, gpus: int) -> Iterator[subprocess.Popen[str]]:
    """`farm worker` on a machine with GPUs, each of its workers running `script`."""
    program = f"""
import sys
from farm.cli.commands import worker
from farm.cli.main import farm
worker.find_spec = lambda _: object()
worker._visible_gpus = lambda: {gpus}
worker._COMMAND = (sys.executable, "-u", "-c", {script!r})
farm(["worker", "--name", "host", "--slots", "2"], prog_name="farm")
"""
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8", cwd=ROOT, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


SAY_AND_WAIT = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
os.write(1, (" ".join(sys.argv[1:]) + chr(10)).encode())
signal.sigwait({signal.SIGTERM})
"""


def test_each_gpu_gets_a_worker_of_its_own_name() -> None:
    with start_on_gpus(SAY_AND_WAIT, gpus=3) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert sorted(said) == [f"--slots 2 --device cuda:{n} --name host-{n}\n" for n in range(3)]
    assert process.returncode == 0


@pytest.mark.long
def test_a_worker_that_ends_unasked_takes_the_others_along() -> None:
    with start_on_gpus(SAY_AND_WAIT, gpus=2) as process:
        assert process.stdout is not None
        [process.stdout.readline() for _ in range(2)]
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
        os.kill(int(children[1]), signal.SIGKILL)
        process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGKILL


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_every_worker(number: signal.Signals) -> None:
    script = """
import os, signal
wanted = {signal.SIGTERM, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
os.write(1, b"ready\\n")
os.write(1, signal.sigwait(wanted).name.encode() + b"\\n")
"""
    with start_on_gpus(script, gpus=2) as process:
        assert process.stdout is not None
        started = [process.stdout.readline() for _ in range(2)]  # so the handlers are there
        process.send_signal(number)
        said, _ = process.communicate(timeout=30)
    assert started == ["ready\n"] * 2
    assert said.split() == [number.name] * 2
    assert process.returncode == 0
