"""`farm worker`: render on this machine, with one process for each GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import click

from farm.cli.options.parsing import Seconds
from farm.errors import FarmError
from farm.jobs.spec import MAX_SIDE, MAX_STEPS, MIN_SIDE

# -P: only what is installed can be imported, and nothing from the user's folder, whatever files lie there.
_COMMAND = (sys.executable, "-P", "-m", "worker")
_COUNT_GPUS = "import torch; print(torch.cuda.device_count())"
_POLL_SECONDS = 0.5
_COUNT_TIMEOUT_SECONDS = 120.0


@click.command(
    epilog="""\b
    Examples:
      farm worker
      farm worker --device cuda:1 --slots 16
      farm worker --model sd14 --model mine=/models/mine.safetensors
      farm worker --model mine --model-cache-gb 20
      farm worker --model xl=/models/xl.safetensors#vae=/models/vae.safetensors
      farm worker --model sd14 --embeddings /models/embeddings --embedding style=/models/my-style.safetensors
      farm worker --model base=stabilityai/stable-diffusion-2-1-base@main
    """
)
@click.option("--device", metavar="D", help="cpu, cuda, cuda:N or mps.  [default: one worker per GPU, else the CPU]")
@click.option(
    "--model",
    multiple=True,
    metavar="NAME[=SOURCE]",
    help="A model to serve.  [default: emoji, and all that the farm keeps]",
)
@click.option(
    "--model-cache-gb",
    type=click.FloatRange(0, min_open=True),
    metavar="GB",
    help="Disk for the files of the farm's models.  [default: $FARM_MODEL_CACHE_GB, or 50]",
)
@click.option("--embedding", multiple=True, metavar="NAME=FILE", help="A textual inversion that prompts may name.")
@click.option(
    "--embeddings",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="A folder of them, each called as its .safetensors file is.",
)
@click.option("--slots", type=click.IntRange(1, 1024), metavar="N", help="Jobs in flight at once.")
@click.option("--rows", type=click.IntRange(2, 1024), metavar="N", help="Rows of one forward pass.")
@click.option("--name", metavar="N", help="What the worker is called.  [default: the host's name]")
@click.option("--deterministic", is_flag=True, help="The same bytes whatever the load, at some cost in speed.")
@click.option("--compile", is_flag=True, help="On a GPU, compile the models first: takes minutes, once.")
@click.option("--grace", type=Seconds(), metavar="S", help="Leave within S seconds when asked to.  [default: 25]")
@click.option(
    "--checkpoint-seconds",
    type=Seconds(),
    metavar="S",
    help="Checkpoint long jobs every S seconds; 0: never.  [default: 60]",
)
@click.option(
    "--max-side", type=click.IntRange(MIN_SIDE, MAX_SIDE), metavar="N", help="Refuse pictures with a longer side."
)
@click.option("--max-steps", type=click.IntRange(1, MAX_STEPS), metavar="N", help="Refuse jobs of more steps.")
@click.option("--max-seconds", type=Seconds(), metavar="S", help="Fail jobs that take longer to render.")
def worker(device: str | None, name: str | None, **options: Any) -> None:
    """Render on this machine: take jobs off the farm's queues until Ctrl-C.

    Without --model it serves the model that comes along and those that the farm keeps ('farm models add'), each when
    there are jobs for it. SOURCE is a hub id (with @revision), a folder in diffusers' layout, a .safetensors checkpoint
    or an s3:// prefix; a NAME alone is built in, or one of the farm's. Options may follow SOURCE: #vae=FILE for another
    autoencoder, #prediction=v or #prediction=epsilon, #ztsnr, and for a checkpoint #config=DIRECTORY.
    """
    check_installed()
    arguments = _spelled(options)
    gpus = _visible_gpus() if device is None else 0
    if gpus > 1:
        raise click.exceptions.Exit(_run_one_each(gpus, name, arguments))
    arguments += _spelled({"device": device or None, "name": name or None})
    sys.stdout.flush()
    os.execv(sys.executable, [*_COMMAND, *arguments])  # noqa: S606 - no shell is wanted


def _spelled(options: Mapping[str, Any]) -> list[str]:
    """The options as the worker's own command line has them, where each is called as it is here."""
    arguments: list[str] = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(option)
        elif value is not None and value is not False:
            for one in value if isinstance(value, tuple) else (value,):
                arguments += [option, str(one)]
    return arguments


def is_installed() -> bool:
    """Whether what rendering needs is installed too."""
    return not _missing()


def check_installed() -> None:
    """Raise `FarmError` unless what rendering needs is installed too."""
    if missing := _missing():
        raise FarmError(
            f"this installation cannot render: {', '.join(missing)} missing",
            hint="in a clone of the farm: pip install -c constraints.txt '.[worker]'",
        )


def _missing() -> list[str]:
    return [package for package in ("torch", "diffusers", "transformers", "worker") if find_spec(package) is None]


def _visible_gpus() -> int:
    """How many CUDA devices torch sees; asked in a process of its own, so that this one stays small."""
    try:
        answer = subprocess.run(
            [sys.executable, "-P", "-c", _COUNT_GPUS],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_COUNT_TIMEOUT_SECONDS,
            check=True,
        )
    except (subprocess.SubprocessError, OSError) as error:
        raise FarmError(f"torch does not start: {error}", hint="try: python -c 'import torch'") from error
    return int(answer.stdout.split()[-1])


def _run_one_each(gpus: int, name: str | None, options: Sequence[str]) -> int:
    """Run a worker on each GPU until all have ended; the worst of their exit codes.

    When one ends unasked the others are asked to leave too, so that whatever supervises this process can start all
    of them again.
    """
    base = name or os.uname().nodename
    children: list[subprocess.Popen[bytes]] = []
    signalled: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        signalled.append(number)
        for child in children:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):  # before the first child, which must not outlive this process
        signal.signal(number, forward)
    for index in range(gpus):
        child = subprocess.Popen([*_COMMAND, *options, "--device", f"cuda:{index}", "--name", f"{base}-{index}"])
        children.append(child)
        if signalled:
            child.send_signal(signalled[-1])
            break
    _wait_for_any(children)
    if not signalled:
        forward(signal.SIGTERM, None)
    codes = [child.wait() for child in children]
    return max(128 - code if code < 0 else code for code in codes)


def _wait_for_any(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until one of the children has ended."""
    while all(child.poll() is None for child in children):
        try:
            children[0].wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
