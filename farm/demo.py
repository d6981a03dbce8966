"""The demonstration: a dozen jobs that show what the farm can do, on a farm of this machine.

The first five are the ones this project began with: an otter in watercolor, a giraffe mixed with a cat, an
image-to-image job from step 12 of 30, a job pulled towards blue, and one with a full trace. The last two have a LoRA.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from farm import stack
from farm.bucket.fetch import IMAGE, Fetched
from farm.client import FarmClient, loras
from farm.host.places import replacing
from farm.jobs.grid import parse_axis
from farm.jobs.grid import requests as grid_requests
from farm.jobs.request import JobRequest, LoraRequest, LossRequest
from farm.jobs.status import JobStatus
from farm.pictures.sheet import contact_sheet, tile_of
from farm.settings import Settings
from farm.stack import site

SHEET, GRID = "sheet.png", "grid.png"
_MORE_PROMPTS = (
    "a red apple on a blue background",
    "a pencil sketch of an owl",
    "an oil painting of a sunflower",
    "a penguin on a green background",
    "a rocket on a black background",
)
NEON = "neon-sign"
"""The name under which the farm keeps the demonstration's LoRA."""


@dataclass
class Timings:
    """How long each part took, in seconds, in the order they happened."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[part] = time.monotonic() - began


def requests() -> list[JobRequest]:
    """What the demonstration submits; seeds are fixed, so that it shows the same pictures everywhere."""
    apple = _apple()
    blue = (LossRequest(name="blue", scale=25, every=1),)
    neon = (LoraRequest(name=NEON),)
    return [
        JobRequest(prompt="a watercolor painting of an otter", seed=14, trace="video"),
        JobRequest(mode="mix", prompt=("a giraffe", "a cat"), mix=0.5, seed=8),
        JobRequest(mode="img2img", prompt="a green apple", init=apple, start_step=12, steps=30, seed=7),
        JobRequest(mode="guided", prompt="a lion on a red background", losses=blue, guidance=4, seed=8),
        JobRequest(prompt="a watercolor painting of a fox", sampler="dpmpp_2m", steps=20, seed=14),
        *(JobRequest(prompt=prompt, seed=seed) for seed, prompt in enumerate(_MORE_PROMPTS, start=100)),
        JobRequest(prompt="a macaw", seed=105, loras=neon),
        JobRequest(prompt="a flamingo", seed=3, loras=neon),
    ]


def grid() -> list[JobRequest]:
    """The red apple on its way to a green one: from three steps of the schedule, under two guidance scales."""
    fields = {"mode": "img2img", "prompt": "a green apple", "init": _apple(), "seed": 7}
    axes = [parse_axis("start_step=6,12,18", name="x"), parse_axis("guidance=1,4", name="y")]
    return grid_requests(fields, axes)


def keep_lora(farm: FarmClient) -> None:
    """Let the farm keep the LoRA that some of the jobs have. Raises what `farm.client.loras.add` raises."""
    loras.add(farm.ledger, farm.storage, NEON, str(_file("demo_lora.safetensors")))


def _apple() -> Path:
    return _file("demo_init.png")


def _file(name: str) -> Path:
    return Path(str(resources.files("farm").joinpath(name)))


@contextmanager
def local_farm(home: Path, timings: Timings, *, keep: bool) -> Iterator[Settings]:
    """The running farm of `home`, else a new one that is stopped at the end unless `keep`. Raises `StackError`."""
    from farm.settings import load_local

    running = load_local(home) if stack.status(home) else None
    if running is not None:
        yield running
        return
    kept = False
    try:
        with timings.of("start of the servers"):
            settings = stack.start_detached(home, web=keep and not site.missing())
        with timings.of("start of the worker"):
            stack.wait_for_workers(home, settings)
        yield settings
        kept = keep
    finally:
        if not kept:
            stack.stop(home)


def timed_watch(farm: FarmClient, jobs: Sequence[str], timings: Timings) -> Iterator[JobStatus]:
    """`FarmClient.watch`, noting when the first picture and when all of them are done."""
    began = time.monotonic()
    for status in farm.watch(jobs):
        if status.state == "done":
            timings.seconds.setdefault("first picture", time.monotonic() - began)
        yield status
    timings.seconds["all pictures"] = time.monotonic() - began


def fetch_all(farm: FarmClient, jobs: Sequence[str], out: Path) -> list[Fetched]:
    """Fetch what each job made, traces too. Raises `FetchRefused`, `StorageError`."""
    return [file for job in jobs for file in farm.fetch(job, out, everything=is_traced(farm, job))]


def write_sheet(files: Sequence[Fetched], out: Path) -> Path:
    """Lay the fetched pictures out on `out/sheet.png`, over one of an earlier demonstration. Raises `InvalidInput`."""
    pictures = [file.path for file in files if file.name == IMAGE]
    tiles = [tile_of(path.read_bytes(), name=path.name) for path in pictures]
    path = out / SHEET
    with replacing(path, option="--out") as unfinished:
        contact_sheet(tiles, columns=4).save(unfinished, "PNG")
    return path


def is_traced(farm: FarmClient, job: str) -> bool:
    """Whether the job keeps something of the way to its picture."""
    return farm.ledger.spec(job).trace.level != "none"
