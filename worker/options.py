"""How a worker is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from farm.jobs.limits import Limits
from farm.ledger.timing import TIMING, Timing

DEFAULT_MODELS = ("emoji",)
DEFAULT_CACHE_GB = 50.0


@dataclass(frozen=True)
class Options:
    """How a worker runs. None: chosen by the device.

    `slots` jobs are in flight at once, `rows` of them advance in one forward pass (a job under
    classifier-free guidance takes two), fewer where memory is short. With `compile` the models' UNets are compiled
    before the first job. `embeddings` are `NAME=FILE`, and all files in `embedding_folders` besides. A worker that is
    asked to leave is gone within `grace` seconds. A job is checkpointed every `checkpoint_seconds`, 0 for never; jobs
    that are shorter cost nothing. `timing` is the farm's own. Without `models` the default ones are served and all that
    the farm keeps, whose files take `model_cache_gb` of this machine's disk at the most.
    """

    models: Sequence[str] = ()
    embeddings: Sequence[str] = ()
    embedding_folders: Sequence[Path] = ()
    name: str | None = None
    device: str | None = None
    slots: int | None = None
    rows: int | None = None
    deterministic: bool = False
    compile: bool = False
    grace: float = 25.0
    checkpoint_seconds: float = 60.0
    model_cache_gb: float | None = None
    timing: Timing = TIMING
    limits: Limits = field(default_factory=Limits)
