"""What a farm consists of: its home, how many workers, and which models they serve."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import farm
from farm import sources
from farm.errors import InvalidInput
from farm.keys import PICKLED_WEIGHTS, WEIGHTS, model_name
from farm.stack.layout import Layout
from farm.stack.process import Program

WORKER_COMMAND = (sys.executable, "-m", "worker")
WORKER_PREFIX = "local-"
MOST_WORKERS = 64

# The folder that holds the packages: `python -m` looks in its working directory first, which must not be one of the
# user's that happens to hold a redis.py.
PACKAGES = Path(farm.__file__).parent.parent


@dataclass(frozen=True)
class FarmPlan:
    """A farm to start. `models` are `NAME` or `NAME=SOURCE`; `worker_command` gets `--name` and `--model` appended.

    `worker_grace` is how long, in seconds, a worker may take to hand its jobs back: longer than its own grace. With
    `web` the farm has its site too.
    """

    home: Path
    workers: int = 1
    models: tuple[str, ...] = ()
    worker_command: tuple[str, ...] = WORKER_COMMAND
    worker_grace: float = 30.0
    web: bool = False

    def __post_init__(self) -> None:
        """Raises `InvalidInput` for a count of workers or a model that cannot be."""
        if not 0 <= self.workers <= MOST_WORKERS:
            raise InvalidInput(f"must be from 0 to {MOST_WORKERS}, not {self.workers}", field="--workers")
        for model in self.models:
            _check_model(model)
        names = [model.partition("=")[0] for model in self.models]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InvalidInput(
                f"'{twice[0]}' is there twice", field="--model", hint="give each model a name of its own"
            )

    def resolved_models(self) -> list[str]:
        """The models, those whose source is a path here by its absolute path: workers run in another folder."""
        return [_from_anywhere(model) for model in self.models]


def worker_programs(plan: FarmPlan) -> list[Program]:
    """The workers `local-1` … `local-N`, each talking to the local farm of the plan's home."""
    layout = Layout(plan.home)
    models = [argument for model in plan.resolved_models() for argument in ("--model", model)]
    environment = _worker_environment(plan)
    return [
        Program(
            name=name,
            command=(*plan.worker_command, "--name", name, *models),
            directory=PACKAGES,
            log=layout.log(name),
            environment=environment,
            grace=plan.worker_grace,
            # Options or a model that were refused will be refused again.
            hopeless=frozenset({2}),
        )
        for name in (f"{WORKER_PREFIX}{number}" for number in range(1, plan.workers + 1))
    ]


def environment_of(plan: FarmPlan) -> dict[str, str]:
    """What the farm's own processes find in their environment: ours, but for what says that another farm is meant."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "FARM_REDIS_URL" and not name.startswith("FARM_S3_")
    }
    return {**kept, "FARM_HOME": str(plan.home), "PYTHONUNBUFFERED": "1"}


def _worker_environment(plan: FarmPlan) -> dict[str, str]:
    kept = environment_of(plan)
    if plan.workers > 1 and not has_gpu():
        # Each would start as many threads as there are cores, and all would wait for one another.
        kept.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // plan.workers)))
    return kept


def has_gpu() -> bool:
    """Whether this machine seems to have an NVIDIA GPU; without asking torch, which `farm` never imports."""
    return Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None


def usable_cores() -> int:
    """The cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _check_model(model: str) -> None:
    name, equals, source = model.partition("=")
    if not name or bool(equals) != bool(source):
        raise InvalidInput(f"must be NAME or NAME=SOURCE, not {model!r}", field="--model")
    try:
        model_name(name)
    except InvalidInput as error:
        raise InvalidInput(error.reason, field="--model", hint=error.hint) from error
    try:
        where, options = sources.split(source)
    except InvalidInput as error:
        raise InvalidInput(error.reason, field="--model", hint=error.hint) from error
    for path in filter(_means_a_path, (where, *(options.get(option, "") for option in sources.PATHS))):
        if _here(path) is None:
            raise InvalidInput(f"{name!r} comes from {path}, which does not exist", field="--model")
        if path.lower().endswith(PICKLED_WEIGHTS):
            hint = "if you trust it, save it as .safetensors"
            raise InvalidInput(
                f"{name!r} comes from {path}, which is pickled and could run code", field="--model", hint=hint
            )


def _means_a_path(source: str) -> bool:
    is_file = source.lower().endswith((WEIGHTS, *PICKLED_WEIGHTS)) and "://" not in source
    return is_file or source.startswith(("/", "./", "../", "~"))


def _from_anywhere(model: str) -> str:
    name, _, source = model.partition("=")
    if not source:
        return model
    where, options = sources.split(source)
    options |= {option: _absolute(options[option]) for option in sources.PATHS if option in options}
    return f"{name}={sources.join(_absolute(where), options)}"


def _absolute(source: str) -> str:
    return str(_here(source) or source)


def _here(source: str) -> Path | None:
    """The absolute path of what a source names on this machine, if it does."""
    try:
        path = Path(source).expanduser()
    except RuntimeError:  # ~nobody
        return None
    return path.absolute() if path.exists() else None  # not where a link leads: its name says how it is read
